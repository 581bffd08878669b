"""What a gate that is started anew still knows: the trial that the present run of the engine passed with.

Without it the pod would leave the Service until it was measured again, and users' requests would be in the way of that.
Kept in the folder that pods' containers share, which outlives each of them and not the pod.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from flash_contracts.document import VERSION, read_json, write_json
from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_config import GateConfig
from flash_engine.gate.evidence import Degradation, GoldenAnswers, Trial
from flash_engine.gate.measurement import Measurement
from flash_engine.log import Logger

log = Logger("flash.gate")

FIGURES = tuple(field.name for field in fields(Measurement) if field.name != "samples")


class TrialStore:
    """One file. What cannot be read or is of another run is nothing; then the engine is measured."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def keep(self, trial: Trial, degraded: Degradation | None, engine: EngineRecord, config: GateConfig) -> None:
        """A trial that passed, made under `config`, and what became of the engine since.

        Its samples are left out: figures are enough to judge again.
        """
        figures = trial.measurement
        if figures is None or trial.golden is None:
            return
        document = {
            "version": VERSION,
            "pid": engine.pid,
            "startedAt": engine.started_at,
            "asked": _asked(config),
            "degraded": asdict(degraded) if degraded else None,
            "goldenAnswers": list(trial.golden.texts),
            "figures": {name: getattr(figures, name) for name in FIGURES},
        }
        try:
            write_json(self._file, document)
        except OSError as error:
            log.warning("trial not kept", error=str(error))

    def recall(self, engine: EngineRecord, config: GateConfig) -> tuple[Trial, Degradation | None] | None:
        """What was kept of this run of the engine, where it was asked the same as `config` asks."""
        document = read_json(self._file) or {}
        run = (document.get("pid"), document.get("startedAt"))
        if engine.pid is None or run != engine.run or document.get("asked") != _asked(config):
            return None
        try:
            figures: dict[str, Any] = {name: document["figures"][name] for name in FIGURES}
            degraded = Degradation(**document["degraded"]) if document["degraded"] else None
            return Trial(GoldenAnswers(tuple(document["goldenAnswers"])), Measurement(**figures)), degraded
        except (KeyError, TypeError):
            return None


def _asked(config: GateConfig) -> str:
    return json.dumps(config.asked)
