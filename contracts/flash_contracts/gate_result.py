"""`GET :9400/result`: the gate's verdict and everything it is based on. The operator copies it into status.

The gate decides and keeps its verdict without the operator, so a reader must tolerate a gate that is newer, older or
missing.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from flash_contracts.document import LOCAL, OMITTED, OPTIONAL, BadDocumentError, Document
from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_pod import EffectiveFlags
from flash_contracts.engine_record import EngineRecord


@dataclass(frozen=True)
class DecodeFigures(Document):
    """The gate's measurements: rates in tokens per second, times in milliseconds, shares in percent."""

    decode_tokens_per_second: float
    acceptance_percent: float | None = None
    first_token_millis: float | None = None
    tokens: int = 0
    drafted: int | None = None
    accepted: int | None = None
    duration_millis: int = 0
    drafts: int | None = None
    """Steps with a draft."""
    acceptance_length: float | None = None
    """Mean tokens per step: the model's own and the accepted drafted ones."""
    position_percents: tuple[float, ...] = ()
    """Share of drafts whose first, second, ... token was accepted; empty if the engine does not report it."""
    prompt_tokens: int | None = None
    """Of the long prompt."""
    prompt_first_token_millis: float | None = None
    prefill_tokens_per_second: float | None = None
    depth_decode_tokens_per_second: float | None = None
    """After the long prompt."""


@dataclass(frozen=True)
class SampleReport(Document):
    """One timed stream."""

    tokens: int
    decode_tokens_per_second: float
    first_token_millis: float
    blocks: tuple[float | None, ...] = ()
    """Tokens per second of each block; None for a block that took no measurable time."""
    cut: bool = False
    counted_tokens: int | None = None
    foreign_requests: int | None = None
    drafted: int | None = None
    accepted: int | None = None
    drafts: int | None = None
    accepted_per_position: tuple[int, ...] = ()


@dataclass(frozen=True)
class ConcurrentRoundReport(Document):
    """The last round of a trial, with concurrent requests."""

    streams: int
    tokens_per_second: float
    golden_answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class GateWarning(Document):
    """An enabled feature that does not work and is not required."""

    reason: str
    message: str


@dataclass(frozen=True)
class TrialReport(Document):
    """The raw data behind the figures, complete enough for a person to judge them again."""

    golden_answers: tuple[str, ...] | None = None
    long_answers: tuple[str, ...] = ()
    doubt: str | None = None
    stalled: bool = False
    samples: tuple[SampleReport, ...] = ()
    concurrent_round: ConcurrentRoundReport | None = None
    warnings: tuple[GateWarning, ...] = ()


@dataclass(frozen=True)
class WantedFigures(Document):
    """The floors that the gate compared the figures with."""

    decode_tokens_per_second: float | None = None
    floor_origin: Literal["Fixed", "Learned"] | None = None
    acceptance_percent: float | None = None
    """Of all drafted tokens."""
    first_draft_percent: float | None = None
    """Of the first token of each draft."""
    first_token_millis: float | None = None
    prefill_tokens_per_second: float | None = None
    depth_decode_tokens_per_second: float | None = None


@dataclass(frozen=True)
class Degradation(Document):
    """A replica that passed and then failed while serving."""

    message: str
    since: str
    """When it degraded. It identifies the quarantine request, so that a grant applies to this degradation only."""
    measured: bool = False
    """Whether the gate's own requests measured it; False if it is inferred from users' traffic."""


@dataclass(frozen=True)
class FullDepthFigures(Document):
    """What was measured once after a prompt that fills the context."""

    prompt_tokens: int
    first_token_millis: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float | None = None
    """None if no token came in time; then the other figures are bounds."""


@dataclass(frozen=True)
class OrderedMeasurement(Document):
    """The answer to a user's order to measure the engine once. It changes no verdict."""

    id: str
    """The order's."""
    problem: str = ""
    """Why the engine was not measured; empty if it was."""
    figures: DecodeFigures | None = None
    samples: tuple[SampleReport, ...] = ()


@dataclass(frozen=True)
class ServingReport(Document):
    """State of a replica that passed and serves."""

    degraded: Degradation | None = None
    quarantined: bool = False
    hung: bool = False
    draining: bool = False
    decode_tokens_per_second: float | None = None
    bad_windows: int = 0
    still_seconds: float = 0.0
    ordered_out: bool = field(default=False, metadata={OMITTED: True})
    """A user took it out of service."""
    blind: str | None = None
    """Why its counters cannot be read, so that its state is unknown."""


MOST_REQUESTS = 1_000_000
"""No engine has more, so a larger count is rejected."""


@dataclass(frozen=True)
class RequestLoad(Document):
    """The requests on a serving engine, by the gate's last reading of the engine's gauges."""

    running: int
    waiting: int
    own: int = 0
    """How many of them are the gate's."""
    abandoned: int = 0
    """How many of them the gauges still show although they are gone."""
    age_seconds: float = 0.0
    """Seconds since the reading, by the gate's monotonic clock. A time would not do: clocks of two machines differ."""

    def __post_init__(self) -> None:
        """Raises BadDocumentError."""
        counts = (self.running, self.waiting, self.own, self.abandoned)
        if not all(0 <= count <= MOST_REQUESTS for count in counts) or self.age_seconds < 0:
            raise BadDocumentError("a count of requests or an age is out of range")

    @property
    def of_users(self) -> int:
        return max(0, self.running + self.waiting - self.own - self.abandoned)


@dataclass(frozen=True)
class GateResult(Document):
    """One verdict, with its evidence. `ready` is what the pod's readiness probe answers."""

    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "gate"
    READERS: ClassVar[tuple[str, ...]] = ("operator",)

    reason: str
    passed: bool
    ready: bool = False
    message: str = ""
    checked_at: str | None = None
    attempts: int = 0
    measurement: DecodeFigures | None = None
    full_depth: FullDepthFigures | None = field(default=None, metadata={OMITTED: True})
    trial: TrialReport | None = field(default=None, metadata={OPTIONAL: True})
    wanted: WantedFigures | None = None
    serving: ServingReport = field(default_factory=ServingReport)
    engine_healthy_at: str | None = None
    gate_millis: float | None = None
    effective: EffectiveFlags | None = field(default=None, metadata={OPTIONAL: True})
    engine: EngineRecord = field(default_factory=EngineRecord)
    delivery: DownloadRecord | None = None
    load: RequestLoad | None = field(default=None, metadata={OPTIONAL: True, OMITTED: True})
    """None if unknown: the engine does not serve, its gauges cannot be read, or the gate is older than 0.2."""
    incident_proven: bool = field(default=False, metadata={OMITTED: True})
    """Whether the links caused the engine's incident: without peer-to-peer, this run gives the answer that was expected
    at the time of the incident, and nothing else explains it."""
    ordered: OrderedMeasurement | None = field(default=None, metadata={OPTIONAL: True, OMITTED: True})
    """The answer to the last order to measure."""
    reached: bool = field(default=True, metadata={LOCAL: True})
    """False if the gate did not answer, so that the operator assumed a verdict."""

    @classmethod
    def of(cls, raw: object) -> "GateResult":
        """Read a `/result` document. An invalid one becomes an Inconclusive verdict, never an exception."""
        try:
            return cls.parse(raw)
        except BadDocumentError as error:
            return cls("Inconclusive", passed=False, message=f"the gate's result could not be read: {error}")

    @classmethod
    def unreachable(cls, message: str) -> "GateResult":
        return cls("EngineStarting", passed=False, message=f"the gate does not answer: {message}", reached=False)
