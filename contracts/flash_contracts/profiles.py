"""The engine profiles of `spec.engine.profile`.

The operator turns them into vLLM arguments. `flash-checkpoint` calculates how much KV cache each one leaves.
"""

from dataclasses import dataclass

DEFAULT_BATCHED_TOKENS = 2048
"""vLLM reserves state of V4's compressors for twice the tokens of a step. At 8192, that is 6 GiB on each GPU for every
request, and LongContext would not start (docs/checkpoint.md)."""


@dataclass(frozen=True)
class Profile:
    """A trade-off between context length and concurrent requests that is known to fit into 2 x 96 GB."""

    name: str
    context_tokens: int
    max_sequences: int
    memory_percent: int
    batched_tokens: int = DEFAULT_BATCHED_TOKENS


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("LongContext", context_tokens=524288, max_sequences=2, memory_percent=93),
        Profile("Balanced", context_tokens=262144, max_sequences=4, memory_percent=95),
        Profile("Throughput", context_tokens=131072, max_sequences=8, memory_percent=90),
    )
}
"""Profiles by name, without Custom, which sets nothing."""
