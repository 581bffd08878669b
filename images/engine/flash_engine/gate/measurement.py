"""Computes decode speed, acceptance and time to first token from timestamps and counters. Pure arithmetic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from statistics import median

from flash_contracts.document import LOCAL
from flash_contracts.trial_record import LongPrompt, MeasuredFigures
from flash_engine.engine_metrics import EngineCounters

BLOCK_TOKENS = 16
"""The rate of each block is one vote on the floor. A block takes 0.2 s at 85 tok/s, so a stall affects few votes."""

CUT_SLACK_TOKENS = 24
"""How many tokens the engine may still generate for a cut stream before it notices."""


@dataclass(frozen=True)
class Arrival:
    """A chunk with text: when it arrived (seconds), and how many tokens of the stream had arrived by then."""

    at: float
    tokens: int


@dataclass(frozen=True)
class Stream:
    """One streamed completion: when it was requested, when its first and last text arrived (seconds), and its tokens.

    `tokens` is from the engine's `usage`. The number of chunks means nothing: accepted drafts arrive together.
    """

    asked: float
    first: float
    last: float
    tokens: int
    arrivals: tuple[Arrival, ...] = ()
    """Empty if the engine reports the token count only at the end."""
    first_tokens: int = 1
    """Tokens of the first chunk. They are part of the prefill, and not timed."""
    cut: bool = False
    """Ended early by the gate, because its speed was clear or it took too long."""
    text: str = ""
    """What was decoded, or its beginning."""
    prompt_tokens: int | None = None
    """By the engine's `usage`."""

    @property
    def decode_tokens_per_second(self) -> float:
        """(tokens - those of the first chunk) / (last - first)."""
        return (self.tokens - self.first_tokens) / (self.last - self.first) if self.last > self.first else 0.0

    @property
    def first_token_millis(self) -> float:
        return (self.first - self.asked) * 1000

    @property
    def block_rates(self) -> tuple[float, ...]:
        return tuple(block_rates(self.arrivals))


def block_rates(arrivals: Sequence[Arrival]) -> Iterator[float]:
    """Tokens per second of each whole block, in order. A block ends with the chunk that fills it."""
    if not arrivals:
        return
    began = arrivals[0]
    for arrival in arrivals[1:]:
        tokens, seconds = arrival.tokens - began.tokens, arrival.at - began.at
        if tokens >= BLOCK_TOKENS:
            yield tokens / seconds if seconds > 0 else float("inf")
            began = arrival


@dataclass(frozen=True)
class Sample:
    """One timed stream, with the idle engine's counters before and after it."""

    stream: Stream
    before: EngineCounters
    after: EngineCounters

    @property
    def counted_tokens(self) -> int:
        """Tokens that the engine counted during the stream, for us and for other clients."""
        return round(self.after.generated - self.before.generated)

    @property
    def foreign_tokens(self) -> int:
        """Tokens that the engine generated for other clients during the stream."""
        slack = CUT_SLACK_TOKENS if self.stream.cut else 0
        surplus = self.counted_tokens - self.stream.tokens
        return surplus if surplus > slack else 0

    @property
    def foreign_requests(self) -> int:
        """Other clients' requests that finished during the stream: even one with one token slows ours by its prompt."""
        ended = _change(self.before.finished, self.after.finished) or 0
        return max(0, ended - 1)

    @property
    def drafted(self) -> int | None:
        return _change(self.before.drafted, self.after.drafted)

    @property
    def accepted(self) -> int | None:
        return _change(self.before.accepted, self.after.accepted)

    @property
    def drafts(self) -> int | None:
        return _change(self.before.drafts, self.after.drafts)

    @property
    def accepted_per_position(self) -> tuple[int, ...]:
        """Empty if the engine does not report them, or its counters were reset."""
        before, after = self.before.accepted_per_position, self.after.accepted_per_position
        if len(before) > len(after):
            return ()
        # A position appears with the first draft that is this long.
        earlier = (*before, *(0.0 for _ in after[len(before) :]))
        return tuple(round(now - then) for then, now in zip(earlier, after, strict=True))

    @property
    def disturbed(self) -> bool:
        """The sample is unusable: other clients used the engine, or its counters are implausible."""
        drafted, accepted = self.drafted or 0, self.accepted or 0
        implausible = self.counted_tokens < self.stream.tokens or not 0 <= accepted <= drafted
        return implausible or self.foreign_tokens > 0 or self.foreign_requests > 0


@dataclass(frozen=True)
class Measurement(MeasuredFigures):
    """The figures, with what they were computed from."""

    samples: tuple[Sample, ...] = field(default=(), metadata={LOCAL: True})

    @property
    def acceptance_percent(self) -> float | None:
        """Share of drafted tokens that were accepted; None if nothing was drafted."""
        if not self.drafted or self.accepted is None:
            return None
        return 100 * self.accepted / self.drafted

    @property
    def position_percents(self) -> tuple[float, ...]:
        """Share of drafts whose first, second, ... token was accepted; empty if the engine does not report it."""
        if not self.drafts:
            return ()
        return tuple(100 * accepted / self.drafts for accepted in self.accepted_per_position)

    @property
    def first_draft_percent(self) -> float | None:
        """Share of drafts whose first token was accepted. If each draft has one token, the share of all tokens."""
        if self.drafts and self.drafts == self.drafted:
            return self.acceptance_percent
        return self.position_percents[0] if self.position_percents else None

    @property
    def acceptance_length(self) -> float | None:
        """Mean tokens per step: the model's own and the accepted drafted ones, as in vLLM's log."""
        return 1 + self.accepted / self.drafts if self.drafts and self.accepted is not None else None

    @property
    def block_rates(self) -> tuple[float, ...]:
        """Those of all samples, in order."""
        return tuple(rate for sample in self.samples for rate in sample.stream.block_rates)


def measure(samples: Sequence[Sample]) -> Measurement:
    """Combine at least one sample."""
    streams = [sample.stream for sample in samples]
    return Measurement(
        decode_tokens_per_second=median(stream.decode_tokens_per_second for stream in streams),
        first_token_millis=median(stream.first_token_millis for stream in streams),
        tokens=sum(stream.tokens for stream in streams),
        drafted=_total([sample.drafted for sample in samples]),
        accepted=_total([sample.accepted for sample in samples]),
        duration_millis=(streams[-1].last - streams[0].asked) * 1000,
        counted_tokens=sum(sample.counted_tokens for sample in samples),
        foreign_tokens=sum(sample.foreign_tokens for sample in samples),
        foreign_requests=sum(sample.foreign_requests for sample in samples),
        drafts=_total([sample.drafts for sample in samples]),
        accepted_per_position=_by_position([sample.accepted_per_position for sample in samples]),
        samples=tuple(samples),
    )


def with_long_prompts(figures: Measurement, prompts: Sequence[LongPrompt]) -> Measurement:
    """Add the figures of at least one long prompt: medians, like the others."""
    decoded = [p.decode_tokens_per_second for p in prompts if p.decode_tokens_per_second is not None]
    return replace(
        figures,
        prompt_tokens=round(median(prompt.tokens for prompt in prompts)),
        prompt_first_token_millis=median(prompt.first_token_millis for prompt in prompts),
        prefill_tokens_per_second=median(prompt.prefill_tokens_per_second for prompt in prompts),
        depth_decode_tokens_per_second=median(decoded) if decoded else None,
    )


def _total(changes: Sequence[int | None]) -> int | None:
    """None if a counter is missing."""
    known = [change for change in changes if change is not None]
    return sum(known) if len(known) == len(changes) else None


def _by_position(samples: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Sums by position. Empty if a sample has none."""
    if not all(samples):
        return ()
    return tuple(sum(counts) for counts in zip_longest(*samples, fillvalue=0))


def _change(before: float | None, after: float | None) -> int | None:
    return None if before is None or after is None else round(after - before)
