"""Generates answers to prompts, then reads prompts and answers again while the workers record."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from flash_contracts.mtp_capture import ROUTER, ROUTER_KEY, router_digest
from flash_engine.errors import EngineError

EXTENSION = "flash_engine.capture.worker.CaptureWorker"
"""Imported by vLLM in its workers. Importing it here would require torch."""


@dataclass(frozen=True)
class CaptureRequest:
    """What to record, and where."""

    out: Path
    tokens: int
    """At most this many."""
    answer_tokens: int
    """Tokens to generate for each prompt."""
    module: str
    """Name of the experts' module in the draft model."""


@dataclass(frozen=True)
class Captured:
    """What was recorded."""

    tokens: int
    requests: int


def engine_arguments(model: Path, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of vLLM's `LLM` for a capture: the chosen ones plus those that a capture needs."""
    return {
        **chosen,
        "model": str(model),
        "enforce_eager": True,
        # A cached prefix is not computed again, so it would not be recorded.
        "enable_prefix_caching": False,
        "speculative_config": {"method": "mtp", "num_speculative_tokens": 1},
        "worker_extension_cls": EXTENSION,
    }


def record(engine: Any, prompts: Sequence[Any], wanted: CaptureRequest, metadata: dict[str, str]) -> Captured:
    """`engine` is vLLM's `LLM` with `engine_arguments`; prompts are texts or token ids as it takes them.

    Raises EngineError if nothing or not everything was recorded.
    """
    from vllm import SamplingParams  # noqa: PLC0415 - only the engine's image has it

    answering = SamplingParams(temperature=0.0, max_tokens=wanted.answer_tokens, ignore_eos=True)
    try:
        answers = engine.generate(prompts, answering)
    except ValueError as error:  # a prompt that is longer than the context
        raise EngineError(f"vLLM rejected a prompt ({error})", "shorten it, or raise --max-model-len") from error
    texts = list(_within(answers, wanted.tokens, engine.llm_engine.model_config.max_model_len))
    started = engine.collective_rpc("start_capture", args=(str(wanted.out), wanted.tokens, wanted.module, metadata))
    if not any(started):
        raise EngineError(
            f"the draft model has no module named {wanted.module!r}",
            "check that the checkpoint has an MTP layer, or name its experts' module with --module",
        )
    engine.generate(texts, SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True))
    recorded = sum(engine.collective_rpc("finish_capture"))
    expected = min(sum(len(text["prompt_token_ids"]) for text in texts), wanted.tokens)
    if recorded != expected:
        raise EngineError(
            f"{recorded} of {expected} tokens passed through the experts",
            "this vLLM calls the draft model differently from the release that the image pins",
        )
    return Captured(recorded, len(texts))


def _within(answers: Sequence[Any], tokens: int, context: int) -> Iterator[dict[str, list[int]]]:
    """Prompt and answer of each request as token ids, until there are enough tokens in total.

    Each is at least one token shorter than the context, because the engine must generate one.
    """
    total = 0
    for answer in answers:
        if total >= tokens:
            return
        ids = [*answer.prompt_token_ids, *answer.outputs[0].token_ids][: context - 1]
        total += len(ids)
        yield {"prompt_token_ids": ids}


def metadata_of(model: Path) -> dict[str, str]:
    """Identifies the model by its router, if the checkpoint has one under DeepSeek's name."""
    import torch  # noqa: PLC0415 - only the engine's image has it

    for path in sorted(model.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                if ROUTER in file.keys():  # noqa: SIM118 - no mapping
                    weights = file.get_tensor(ROUTER).to(torch.bfloat16).contiguous()
                    return {ROUTER_KEY: router_digest(weights.view(torch.uint8).numpy().tobytes())}
        except SafetensorError as error:
            raise EngineError(f"{path} is truncated or damaged ({error})", "download it again") from error
    return {}
