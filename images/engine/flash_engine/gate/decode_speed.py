"""Bounds of the decode speed that users got between two readings of a serving engine's counters. Pure.

vLLM reads a prompt in pieces, one per step, and each request that decodes meanwhile waits for that longer step. So the
mean time between tokens depends on the prompts. The histogram separates them: a prompt of 4,000 tokens lengthens two or
three steps, while an answer of 200 tokens takes a hundred. The counters limit how many steps prompts can have
lengthened. Dropping that many of the longest ones leaves plain decoding.

    bound   assumption
    least   no step was lengthened by a prompt: all time counts
    most    as many steps as possible were lengthened, and those were the longest

The engine is slow for certain only if even `most` is below its floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flash_contracts.gate_config import GateConfig
from flash_engine.engine_metrics import Buckets, EngineCounters

STEP_TOKENS = 2048
"""Tokens of prompts that vLLM processes in a step, unless --max-num-batched-tokens says otherwise. Its default is this
for an OpenAI server, and more on large GPUs."""

STEP_SHARE = 0.9
"""Share of a step that is free for prompts. The decoding requests and their drafts take the rest."""

STEP_OPTION = "--max-num-batched-tokens"

PROMPT_FACTOR = 16.0
"""Without a histogram, prompts are assumed to be read at least this many times as fast as the floor decodes."""


@dataclass(frozen=True)
class DecodeSpeed:
    """Tokens per second of all requests together."""

    least: float
    most: float
    undisturbed_seconds: float
    """Time of all requests that no prompt can have lengthened. The more of it, the more reliable the figures."""


def step_tokens(command: Sequence[str]) -> int:
    """How many tokens of prompts the engine with this command line processes in a step."""
    chosen = STEP_TOKENS
    for word, value in zip(command, (*command[1:], ""), strict=False):
        name, _, attached = word.replace("_", "-").partition("=")
        if name == STEP_OPTION:
            text = attached or value
            chosen = int(text) if text.isascii() and text.isdigit() and int(text) else chosen
    return chosen


def decode_speed(
    before: EngineCounters,
    after: EngineCounters,
    *,
    streams: float,
    config: GateConfig,
    piece: int = STEP_TOKENS,
    later: EngineCounters | None = None,
) -> DecodeSpeed | None:
    """The speed between two readings; None if the counters do not show it.

    `streams` is how many requests decoded at once, at least 1. `piece` is the result of `step_tokens`. vLLM counts a
    prompt once it has been read: `later` is a reading, by default `after`, that counts all prompts being read until
    then.
    """
    seconds, first_tokens = (
        _change(before.decode_seconds, after.decode_seconds),
        _change(before.first_tokens, after.first_tokens),
    )
    generated = after.generated - before.generated
    if not seconds or seconds < 0 or first_tokens is None or after.processed is None or before.processed is None:
        return None
    # An answer may end in the middle of its last step's drafts, which matters most for short answers.
    unused = (_change(before.finished, after.finished) or 0) * (
        config.speculation.tokens if config.speculation.expected else 0
    )
    tokens = generated - first_tokens + unused
    prompts, prompt_tokens = _prompts(before, later or after)
    latencies = _bucket_changes(before.latencies, after.latencies)
    if latencies:
        steps = prompts + prompt_tokens / (STEP_SHARE * piece)
        share, kept_seconds = _without_longest(latencies, streams * steps, seconds)
    else:
        kept_seconds = seconds - streams * prompt_tokens / max(1.0, PROMPT_FACTOR * config.floor)
        share = 1.0 if kept_seconds > 0 else 0.0
    if share <= 0 or kept_seconds <= 0:
        return None
    return DecodeSpeed(
        least=streams * tokens / seconds,
        most=streams * tokens * share / kept_seconds,
        undisturbed_seconds=seconds * share if latencies else kept_seconds,
    )


def _prompts(before: EngineCounters, after: EngineCounters) -> tuple[float, float]:
    """How many prompts were read, and their tokens."""
    processed = _change(before.processed, after.processed) or 0.0
    prompts = _change(before.first_tokens, after.first_tokens) or 0.0
    return max(0.0, prompts), max(0.0, processed - (after.generated - before.generated))


@dataclass(frozen=True)
class _Bucket:
    count: float
    low: float
    high: float


def _bucket_changes(before: Buckets | None, after: Buckets | None) -> list[_Bucket]:
    """Observations between two readings, by bucket; empty if unknown, or if the buckets have changed."""
    if not before or not after or [bound for bound, _ in before] != [bound for bound, _ in after]:
        return []
    low, earlier, changes = 0.0, 0.0, []
    for (bound, was), (_, now) in zip(before, after, strict=True):
        changes.append(_Bucket(now - was - earlier, low, bound))
        low, earlier = max(0.0, bound), now - was
    implausible = any(change.count < 0 for change in changes) or not earlier
    return [] if implausible else changes


def _without_longest(buckets: Sequence[_Bucket], dropped: float, seconds: float) -> tuple[float, float]:
    """The share of observations left without the longest ones, and the least seconds that the rest took."""
    total = sum(bucket.count for bucket in buckets)
    left = total - dropped
    by_lows, dropped_seconds = 0.0, 0.0
    for bucket in buckets:
        kept = min(bucket.count, max(0.0, left))
        left -= bucket.count
        by_lows += kept * bucket.low
        if bucket.count > kept:
            dropped_seconds += (bucket.count - kept) * bucket.high
    return 1 - dropped / total, max(by_lows, seconds - dropped_seconds)


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
