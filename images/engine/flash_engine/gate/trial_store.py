"""Stores the trial that the current run of the engine passed, so that a restarted gate finds it (`trial.json`)."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_config import GateConfig
from flash_contracts.gate_result import Degradation
from flash_contracts.trial_record import LongPrompt, MeasuredFigures, Stall, TrialRecord
from flash_engine.gate.answer_checks import TextKind
from flash_engine.gate.evidence import GoldenAnswers, Trial
from flash_engine.gate.measurement import Measurement
from flash_engine.log import Logger

log = Logger("flash.gate")


@dataclass(frozen=True)
class StoredTrial:
    """A trial that passed, and what was found since."""

    trial: Trial
    right: Mapping[TextKind, str] = field(default_factory=dict)
    """`ReportedFaults.right`."""
    degraded: Degradation | None = None
    stall: Stall | None = None
    incident_refuted: bool = False
    full_depth: LongPrompt | None = None


class TrialStore:
    """Stores one file. If it is missing, invalid or of another run, the engine is measured again."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def store(self, stored: StoredTrial, engine: EngineRecord, config: GateConfig) -> None:
        """Store a passed trial that was made under `config`."""
        trial = stored.trial
        if trial.measurement is None or trial.golden is None or engine.pid is None:
            return
        record = TrialRecord(
            pid=engine.pid,
            started_at=engine.started_at,
            asked=_asked(config),
            golden_answers=trial.golden.texts,
            figures=trial.measurement,
            right={str(kind): asked for kind, asked in stored.right.items()},
            concurrent_round=trial.concurrent_round,
            long_answers=trial.long_answers,
            long_prompts=trial.long_prompts,
            broken_features=trial.broken_features,
            incident_refuted=stored.incident_refuted,
            full_depth=stored.full_depth,
            degraded=stored.degraded,
            stall=stored.stall,
        )
        try:
            record.write(self._file)
        except (OSError, ValueError) as error:
            log.warning("trial not stored", error=str(error))

    def restore(self, engine: EngineRecord, config: GateConfig) -> StoredTrial | None:
        """The stored trial, if it belongs to this run of the engine and made the requests of `config`."""
        record = TrialRecord.read(self._file)
        if record is None or (record.pid, record.started_at) != engine.run or record.asked != _asked(config):
            return None
        return StoredTrial(
            Trial(
                GoldenAnswers(record.golden_answers),
                _measurement(record.figures),
                concurrent_round=record.concurrent_round,
                long_answers=record.long_answers,
                long_prompts=record.long_prompts,
                broken_features=record.broken_features,
            ),
            _right(record, config),
            record.degraded,
            record.stall,
            record.incident_refuted,
            record.full_depth,
        )


def _measurement(figures: MeasuredFigures) -> Measurement:
    return Measurement(**asdict(figures))


def _right(record: TrialRecord, config: GateConfig) -> dict[TextKind, str]:
    """Without the kinds of a newer gate. Gates before 0.2 stored only the golden answer."""
    if not record.right:
        return {TextKind.GOLDEN: config.golden.model_copy(update={"expect": record.expect}).identity}
    return {kind: record.right[kind] for kind in TextKind if kind in record.right}


def _asked(config: GateConfig) -> str:
    return json.dumps(config.asked)
