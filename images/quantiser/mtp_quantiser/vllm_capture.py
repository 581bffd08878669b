"""`mtp-quantise capture`: runs prompts through vLLM and records the inputs of the MTP layer's experts."""

import argparse
import json
import os
from pathlib import Path

from mtp_quantiser.captures import INPUT
from mtp_quantiser.checkpoint import opened
from mtp_quantiser.errors import QuantiserError


def run(arguments: argparse.Namespace) -> int:
    """Returns the number of tokens recorded. Raises QuantiserError without vLLM, or if no draft model ran."""
    prompts = prompts_of(arguments.prompts)
    os.environ["FLASH_CAPTURE_DIR"] = str(arguments.out)
    os.environ["FLASH_CAPTURE_TOKENS"] = str(arguments.tokens)
    os.environ["FLASH_CAPTURE_MODULE"] = arguments.module
    try:
        from vllm import LLM, SamplingParams  # noqa: PLC0415 - hundreds of modules, needed by this command only
    except ImportError as error:
        raise QuantiserError(f"vLLM is not installed here ({error}); capture inside the engine image") from error
    engine = LLM(
        model=str(arguments.model),
        enforce_eager=True,
        tensor_parallel_size=arguments.tensor_parallel_size,
        max_model_len=arguments.max_model_len,
        speculative_config={"method": "mtp", "num_speculative_tokens": 1},
        worker_extension_cls="mtp_quantiser.capture_hook.FlushingWorker",
    )
    engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=arguments.max_tokens, ignore_eos=True))
    engine.collective_rpc("flush_capture")
    recorded = tokens_in(arguments.out)
    if not recorded:
        raise QuantiserError(
            f"no module {arguments.module!r} of a draft model ran; is this package's plugin installed "
            f"in vLLM's environment, and does {arguments.model} have an MTP layer?"
        )
    return recorded


def tokens_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.safetensors"):
        with opened(path) as file:
            total += file.get_slice(INPUT).get_shape()[0]
    return total


def prompts_of(path: Path) -> list[str]:
    """The texts of a file of JSON lines."""
    try:
        return [json.loads(line)["prompt"] for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError, KeyError) as error:
        raise QuantiserError(f"{path} is not a file of JSON lines with `prompt` ({error!r})") from error
