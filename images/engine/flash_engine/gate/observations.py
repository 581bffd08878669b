"""What the gate can observe: the inputs of the state machine."""

from dataclasses import dataclass
from typing import TypeAlias

from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_record import EngineRecord, Run
from flash_contracts.gate_config import GateConfig
from flash_contracts.trial_record import LongPrompt
from flash_engine.gate.evidence import EngineHealth, Trial
from flash_engine.gate.gate_state import Instant, TrialKind
from flash_engine.gate.ordered_measuring import Answer
from flash_engine.gate.serving_health import Reply
from flash_engine.gate.serving_monitor import CountersObserved
from flash_engine.gate.trial_store import StoredTrial


@dataclass(frozen=True)
class ConfigRead:
    """gate.json is valid."""

    config: GateConfig


@dataclass(frozen=True)
class ConfigRejected:
    """gate.json is invalid or missing. It is never half-written: the kubelet replaces it atomically."""

    error: str


@dataclass(frozen=True)
class EngineObserved:
    """The engine's health, and the files about it."""

    health: EngineHealth
    record: EngineRecord
    """Must be read after the answer to /health, so that an exit in between is not missed."""
    at: float
    """Seconds on the event loop's clock."""
    download: DownloadRecord | None = None
    checkpoint_bytes: int | None = None
    draining: bool = False
    granted_quarantine: str | None = None
    measure_order: str | None = None
    """The id of a new order of a user."""


@dataclass(frozen=True)
class StoredTrialRead:
    """The stored trial, if it is of this run of the engine and asked what `config` asks."""

    config: GateConfig
    stored: StoredTrial | None = None


@dataclass(frozen=True)
class EngineAsked:
    """The outcome of the request for a token."""

    reply: Reply
    run: Run
    """The run of the engine that was asked."""


@dataclass(frozen=True)
class FullDepthMeasured:
    """What was measured after a prompt that fills the context; None if the measurement was abandoned."""

    found: LongPrompt | None
    run: Run


@dataclass(frozen=True)
class OrderAnswered:
    """What came of a user's order to measure."""

    answer: Answer
    at: float
    """Seconds on the event loop's clock."""


@dataclass(frozen=True)
class TrialFinished:
    """A trial's result, and the engine's state after it: a request may have failed because the engine died."""

    trial: Trial
    kind: TrialKind
    config: GateConfig
    at: Instant
    engine: EngineObserved


@dataclass(frozen=True)
class FaultReported:
    """The file was written."""


@dataclass(frozen=True)
class FaultReportWithdrawn:
    """The file was deleted, or there was none."""


Observation: TypeAlias = (
    ConfigRead
    | ConfigRejected
    | EngineObserved
    | StoredTrialRead
    | TrialFinished
    | CountersObserved
    | EngineAsked
    | FullDepthMeasured
    | OrderAnswered
    | FaultReported
    | FaultReportWithdrawn
)
