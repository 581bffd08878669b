"""Judges the combined speed of concurrent requests. Pure.

A slow round is repeated, and the fastest undisturbed one counts: a load peak, a broken stream or another client may
have slowed the others.
"""

from collections.abc import Sequence
from dataclasses import replace

from flash_contracts.trial_record import ConcurrentRound
from flash_engine.gate.measurement import CUT_SLACK_TOKENS, Stream

ROUNDS = 3
"""At most this many rounds."""

SLOW_ROUNDS = 2
"""This many undisturbed slow rounds are enough to call the engine slow."""


def combined_rate(streams: Sequence[Stream]) -> float:
    """Tokens per second of all streams, from the first token of any to the last of all."""
    seconds = max(stream.last for stream in streams) - min(stream.first for stream in streams)
    return sum(stream.tokens - stream.first_tokens for stream in streams) / seconds if seconds > 0 else 0.0


def is_disturbed(streams: Sequence[Stream], *, tries: int, counted: float, answer_tokens: int) -> bool:
    """Whether the speed of a round is unusable.

    `tries`: how many requests were begun for the streams. `counted`: tokens that the engine counted meanwhile,
    including those of the golden answers, which have at most `answer_tokens` each.
    """
    most = sum(stream.tokens + CUT_SLACK_TOKENS + answer_tokens for stream in streams)
    return not combined_rate(streams) or tries > len(streams) or not 0 <= counted <= most


def needs_another_round(rounds: Sequence[ConcurrentRound], floor: float) -> bool:
    """Whether the rounds do not show yet if the engine is slow."""
    slow = sum(not one.disturbed for one in rounds)
    is_fast = any(one.tokens_per_second >= floor for one in rounds)
    return not is_fast and slow < SLOW_ROUNDS and len(rounds) < ROUNDS


def fastest(rounds: Sequence[ConcurrentRound], floor: float) -> ConcurrentRound:
    """The round that counts, with the answers of every round: all of them must be right."""
    best = max(rounds, key=lambda one: (one.tokens_per_second >= floor, not one.disturbed, one.tokens_per_second))
    return replace(
        best,
        texts=tuple(text for one in rounds for text in one.texts),
        stream_texts=tuple(text for one in rounds for text in one.stream_texts),
    )
