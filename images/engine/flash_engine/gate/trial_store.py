"""Stores the trial that the present run of the engine passed, for a gate that is restarted.

Without it the pod would leave the Service until it was measured again, and users' requests would disturb that; and an
engine that hangs would be Ready again. The file is in the folder that the pod's containers share: it outlives each
container, but not the pod.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flash_contracts.document import Document
from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_config import GateConfig, GoldenQuestion
from flash_engine.gate.evidence import ConcurrentRound, Degradation, GoldenAnswers, Trial
from flash_engine.gate.measurement import Measurement
from flash_engine.gate.serving_monitor import Stall
from flash_engine.log import Logger

log = Logger("flash.gate")


@dataclass(frozen=True)
class StoredTrial:
    """A trial that passed, and what was found since."""

    trial: Trial
    golden: GoldenQuestion
    """The question, with the answer that was expected and given."""
    degraded: Degradation | None = None
    stall: Stall | None = None


@dataclass(frozen=True)
class _Round(Document):
    streams: int
    tokens_per_second: float


@dataclass(frozen=True)
class _TrialDocument(Document):
    IS_VERSIONED: ClassVar[bool] = True

    pid: int
    started_at: str | None
    asked: str
    golden_answers: tuple[str, ...]
    figures: Measurement
    """Without the samples: the figures are enough to judge again."""
    expect: str | None = None
    concurrent_round: _Round | None = None
    degraded: Degradation | None = None
    stall: Stall | None = None


class TrialStore:
    """One file. If it is missing, invalid or of another run, the engine is measured."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def store(self, stored: StoredTrial, engine: EngineRecord, config: GateConfig) -> None:
        """Store a trial made under `config` that passed."""
        figures, golden, crowd = stored.trial.measurement, stored.trial.golden, stored.trial.concurrent_round
        if figures is None or golden is None or engine.pid is None:
            return
        document = _TrialDocument(
            pid=engine.pid,
            started_at=engine.started_at,
            asked=_asked(config),
            golden_answers=golden.texts,
            figures=figures,
            expect=stored.golden.expect,
            concurrent_round=_Round(crowd.streams, crowd.tokens_per_second) if crowd else None,
            degraded=stored.degraded,
            stall=stored.stall,
        )
        try:
            document.write(self._file)
        except OSError as error:
            log.warning("trial not stored", error=str(error))

    def restore(self, engine: EngineRecord, config: GateConfig) -> StoredTrial | None:
        """The stored trial, if it is of this run of the engine and its requests were those of `config`."""
        document = _TrialDocument.read(self._file)
        if document is None or (document.pid, document.started_at) != engine.run or document.asked != _asked(config):
            return None
        crowd = document.concurrent_round
        return StoredTrial(
            Trial(
                GoldenAnswers(document.golden_answers),
                document.figures,
                concurrent_round=ConcurrentRound(crowd.streams, (), crowd.tokens_per_second) if crowd else None,
            ),
            config.golden.model_copy(update={"expect": document.expect}),
            document.degraded,
            document.stall,
        )


def _asked(config: GateConfig) -> str:
    return json.dumps(config.asked)
