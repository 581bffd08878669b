"""The vLLM arguments that follow from a checkpoint, each with its reason."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from flash_engine.checkpoint.layout import Layout
from flash_engine.checkpoint.memory import Budget, Profile, Weights, budget
from flash_engine.checkpoint.model_config import ModelConfig

LEAST_BATCHED, MOST_BATCHED = 512, 8192
DSPARK_TOKENS = 5


@dataclass(frozen=True)
class Flag:
    """One argument."""

    value: str
    reason: str


def flags(config: ModelConfig, layout: Layout) -> Iterator[Flag]:
    """What is the same at each profile; see `batched_tokens` for the rest."""
    yield Flag("--kv-cache-dtype=fp8", "the only KV cache that V4's sparse attention has on sm_120")
    yield Flag("--block-size=256", "V4's compressors assume it")
    yield Flag("--tokenizer-mode=deepseek_v4", "V4 has no chat template of the usual kind")
    speculation = speculative_config(config, layout)
    if speculation:
        reason = "its drafter is DSpark" if config.dspark_layers else "its MTP head is there"
        yield Flag(f"--speculative-config={speculation}", reason)


def speculative_config(config: ModelConfig, layout: Layout) -> str | None:
    """None without a drafter."""
    if not layout.has_drafter:
        return None
    tokens = config.raw.get("dspark_block_size", DSPARK_TOKENS) if config.dspark_layers else 1
    method = "dspark" if config.dspark_layers else "mtp"
    return json.dumps({"method": method, "num_speculative_tokens": tokens}, separators=(",", ":"))


def batched_tokens(config: ModelConfig, layout: Layout, taken: Weights, profile: Profile) -> Budget:
    """The budget with the most batched tokens at which all sequences of a profile have room for the whole context.

    Or, where that is nowhere so, at which one of them has. vLLM sets state aside for twice the tokens of a step, and
    that is most of what a request takes.
    """
    tried = []
    tokens = MOST_BATCHED
    while tokens >= LEAST_BATCHED:
        tried.append(budget(config, layout, taken, replace(profile, batched_tokens=tokens)))
        tokens //= 2
    roomy = [one for one in tried if one.requests >= profile.sequences]
    fitting = [one for one in tried if one.fits]
    return (roomy or fitting or tried[-1:])[0]
