"""From timestamps and counters to figures. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from flash_engine.gate.engine_metrics import EngineCounters


@dataclass(frozen=True)
class Stream:
    """One streamed completion: when it was asked for, when its first and last text came (seconds), and its tokens.

    `tokens` is what the engine's `usage` says. The number of chunks is no measure: accepted drafts arrive together.
    """

    asked: float
    first: float
    last: float
    tokens: int

    @property
    def decode_tokens_per_second(self) -> float:
        """(tokens - 1) / (last - first): the first token belongs to the prompt's processing."""
        return (self.tokens - 1) / (self.last - self.first) if self.last > self.first else 0.0

    @property
    def first_token_millis(self) -> float:
        return (self.first - self.asked) * 1000


@dataclass(frozen=True)
class Measurement:
    """The figures of all samples together."""

    decode_tokens_per_second: float
    """Median over the samples, so that one hiccup of the machine decides nothing."""
    first_token_millis: float
    tokens: int
    drafted: int | None
    accepted: int | None
    duration_millis: float
    counted_tokens: int
    """Tokens that the engine itself counted meanwhile, ours and those of others."""

    @property
    def foreign_tokens(self) -> int:
        """Tokens that the engine generated meanwhile for somebody else."""
        return max(0, self.counted_tokens - self.tokens)

    @property
    def acceptance_percent(self) -> float | None:
        """Accepted of drafted tokens; None where nothing was drafted."""
        if not self.drafted or self.accepted is None:
            return None
        return 100 * self.accepted / self.drafted


def measure(streams: Sequence[Stream], before: EngineCounters, after: EngineCounters) -> Measurement:
    """Figures of at least one stream, with the counters as they were before the first and after the last."""
    tokens = sum(stream.tokens for stream in streams)
    return Measurement(
        decode_tokens_per_second=median(stream.decode_tokens_per_second for stream in streams),
        first_token_millis=median(stream.first_token_millis for stream in streams),
        tokens=tokens,
        drafted=_change(before.drafted, after.drafted),
        accepted=_change(before.accepted, after.accepted),
        duration_millis=(streams[-1].last - streams[0].asked) * 1000,
        counted_tokens=round(after.generated - before.generated),
    )


def _change(before: float | None, after: float | None) -> int | None:
    return None if before is None or after is None else round(after - before)
