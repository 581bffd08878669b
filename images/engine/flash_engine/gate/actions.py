"""What the state machine asks the gate to do."""

from dataclasses import dataclass
from typing import TypeAlias

from flash_contracts.engine_pod import FaultReport
from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_config import FullDepthTest, GateConfig
from flash_engine.gate.evidence import Trial
from flash_engine.gate.gate_state import TrialKind
from flash_engine.gate.trial_store import StoredTrial


@dataclass(frozen=True)
class ReadStoredTrial:
    """Look for the trial of an earlier process, so that a restart of the gate does not cost readiness."""

    config: GateConfig


@dataclass(frozen=True)
class RunTrial:
    """Send the engine the gate's own requests."""

    kind: TrialKind
    config: GateConfig


@dataclass(frozen=True)
class ReadCounters:
    """Read the counters of a serving engine."""


@dataclass(frozen=True)
class AskEngine:
    """Ask an engine that seems to hang for a token, in the background."""

    config: GateConfig


@dataclass(frozen=True)
class MeasureFullDepth:
    """Measure after a prompt that fills the context, in the background."""

    config: GateConfig
    test: FullDepthTest


@dataclass(frozen=True)
class MeasureOrdered:
    """Measure the engine for a user, beside the verdict."""

    config: GateConfig
    order: str


@dataclass(frozen=True)
class StoreTrial:
    """Store a passed trial and what was found since, so that a restarted gate can restore them."""

    stored: StoredTrial
    engine: EngineRecord
    config: GateConfig


@dataclass(frozen=True)
class LogTrial:
    """Log a finished trial."""

    trial: Trial
    attempt: int
    keeps_earlier_verdict: bool


@dataclass(frozen=True)
class ReportFault:
    """Ask the launcher to restart the engine."""

    report: FaultReport


@dataclass(frozen=True)
class WithdrawFault:
    """Delete the fault report: the engine answers correctly after all."""


Action: TypeAlias = (
    ReadStoredTrial
    | RunTrial
    | ReadCounters
    | AskEngine
    | MeasureFullDepth
    | MeasureOrdered
    | StoreTrial
    | LogTrial
    | ReportFault
    | WithdrawFault
)
