"""`trial.json`: the trial that the current run of the engine passed, so that a restarted gate need not repeat it.

Without it, the pod would leave the Service until it was measured again, which users' requests would disturb. The file
is in the folder that the pod's containers share: it outlives each container, but not the pod.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from flash_contracts.document import OMITTED, OPTIONAL, Document
from flash_contracts.gate_result import Degradation
from flash_contracts.verdict_reason import Reason


@dataclass(frozen=True)
class MeasuredFigures(Document):
    """The figures of all timed streams combined: rates in tokens per second, times in milliseconds."""

    decode_tokens_per_second: float
    """Median of the samples, so that one hiccup of the machine does not decide."""
    first_token_millis: float
    tokens: int
    drafted: int | None
    accepted: int | None
    duration_millis: float
    counted_tokens: int
    """Tokens that the engine counted during the streams, for us and for other clients."""
    foreign_tokens: int
    foreign_requests: int
    drafts: int | None = None
    """Steps with a draft."""
    accepted_per_position: tuple[int, ...] = ()
    """Accepted tokens by their position in the draft; empty if the engine does not report them."""
    prompt_tokens: int | None = None
    """Tokens of the long prompt; None if there was none."""
    prompt_first_token_millis: float | None = None
    prefill_tokens_per_second: float | None = None
    depth_decode_tokens_per_second: float | None = None
    """After the long prompt; None if no token came in time."""


@dataclass(frozen=True)
class LongPrompt(Document):
    """One timed stream after a long prompt."""

    tokens: int
    first_token_millis: float
    decode_tokens_per_second: float | None
    """None if not even the first token came in time, so that `first_token_millis` is a lower bound."""
    text: str = ""
    """What was decoded, or its beginning."""

    @property
    def prefill_tokens_per_second(self) -> float:
        return 1000 * self.tokens / self.first_token_millis if self.first_token_millis > 0 else 0.0


@dataclass(frozen=True)
class FeatureFault(Document):
    """A feature that is switched on but does not work."""

    reason: Reason
    detail: str


@dataclass(frozen=True)
class ConcurrentRound(Document):
    """The round of as many simultaneous requests as the engine is configured for. The engine survived it."""

    streams: int
    tokens_per_second: float
    """All streams together."""
    texts: tuple[str, ...] = ()
    """The golden answers given beside the other requests."""
    stream_texts: tuple[str, ...] = ()
    """What the other requests decoded."""
    disturbed: bool = False
    """Whether its speed is unusable: a stream broke and was sent again, or other clients used the engine."""
    long_answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stall(Document):
    """An engine that hangs: the counters that do not change."""

    seconds: float
    generated: float
    unfinished: float
    steps: float | None = None
    kv_cache: float | None = None


@dataclass(frozen=True)
class TrialRecord(Document):
    """A trial that passed, and what was found since."""

    FILE: ClassVar[str] = "trial.json"
    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "gate"
    READERS: ClassVar[tuple[str, ...]] = ("gate",)

    pid: int
    started_at: str | None
    asked: str
    """`GateConfig.asked`, as JSON: what was sent to the engine."""
    golden_answers: tuple[str, ...]
    figures: MeasuredFigures
    """Without the samples, because the figures are enough to judge them again."""
    expect: str | None = field(default=None, metadata={OMITTED: True})
    """The golden answer that was expected and given. Gates before 0.2 wrote it instead of `right`."""
    right: dict[str, str] = field(default_factory=dict, metadata={OPTIONAL: True})
    """The kinds of text that this run got right, each with a hash of what was asked and expected."""
    concurrent_round: ConcurrentRound | None = None
    long_answers: tuple[str, ...] = field(default=(), metadata={OPTIONAL: True})
    long_prompts: tuple[LongPrompt, ...] = field(default=(), metadata={OPTIONAL: True})
    broken_features: tuple[FeatureFault, ...] = field(default=(), metadata={OPTIONAL: True})
    """Includes those that are only warnings."""
    incident_refuted: bool = field(default=False, metadata={OPTIONAL: True})
    """Whether this run gave a wrong text of the incident's kind too, so that later right ones prove nothing."""
    full_depth: LongPrompt | None = field(default=None, metadata={OPTIONAL: True})
    """After a prompt that fills the context, measured once per run."""
    degraded: Degradation | None = None
    stall: Stall | None = None
