"""The vLLM arguments that a checkpoint needs, each with its reason."""

import json
from collections.abc import Iterator
from dataclasses import replace

from flash_contracts.checkpoint_record import AdvisedFlag
from flash_contracts.profiles import Profile
from flash_engine.checkpoint.layout import Layout
from flash_engine.checkpoint.memory import KvCacheBudget, WeightBytes, kv_cache_budget
from flash_engine.checkpoint.model_config import ModelConfig

LEAST_BATCHED, MOST_BATCHED = 512, 8192
DSPARK_TOKENS = 5


def engine_flags(config: ModelConfig, layout: Layout) -> Iterator[AdvisedFlag]:
    """The flags that do not depend on the profile. The number of batched tokens does: see `advised_budget`."""
    yield AdvisedFlag("--kv-cache-dtype=fp8", "the only KV cache type that V4's sparse attention supports on sm_120")
    yield AdvisedFlag("--block-size=256", "V4's compressors require it")
    yield AdvisedFlag("--tokenizer-mode=deepseek_v4", "V4 has no Jinja chat template")
    speculation = speculative_config(config, layout)
    if speculation:
        reason = "the checkpoint has a DSpark drafter" if config.dspark_layers else "the checkpoint has an MTP head"
        yield AdvisedFlag(f"--speculative-config={speculation}", reason)


def speculative_config(config: ModelConfig, layout: Layout) -> str | None:
    """The value of --speculative-config, or None if the checkpoint has no drafter."""
    if not layout.has_drafter:
        return None
    tokens = config.raw.get("dspark_block_size", DSPARK_TOKENS) if config.dspark_layers else 1
    method = "dspark" if config.dspark_layers else "mtp"
    return json.dumps({"method": method, "num_speculative_tokens": tokens}, separators=(",", ":"))


def advised_budget(config: ModelConfig, layout: Layout, weights: WeightBytes, profile: Profile) -> KvCacheBudget:
    """The budget with the most batched tokens that lets all of a profile's sequences use the whole context.

    If none does, the most that lets one sequence use it. Fewer batched tokens leave more KV cache: vLLM reserves
    compressor state for twice the tokens of a step, which is most of what a request takes.
    """
    budgets = []
    tokens = MOST_BATCHED
    while tokens >= LEAST_BATCHED:
        budgets.append(kv_cache_budget(config, layout, weights, replace(profile, batched_tokens=tokens)))
        tokens //= 2
    for_all = [budget for budget in budgets if budget.requests >= profile.max_sequences]
    for_one = [budget for budget in budgets if budget.fits]
    return (for_all or for_one or budgets[-1:])[0]
