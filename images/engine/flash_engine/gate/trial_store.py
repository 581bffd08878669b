"""Stores the trial that the present run of the engine passed, for a gate that is restarted.

Without it the pod would leave the Service until it was measured again, and users' requests would disturb that. The file
is in the folder that the pod's containers share: it outlives each container, but not the pod.
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
    """One file. If it is missing, invalid or of another run, the engine is measured."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def store(self, trial: Trial, degraded: Degradation | None, engine: EngineRecord, config: GateConfig) -> None:
        """Store a trial made under `config` that passed, and the degradation found since.

        The samples are left out: the figures are enough to judge again.
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
            log.warning("trial not stored", error=str(error))

    def restore(self, engine: EngineRecord, config: GateConfig) -> tuple[Trial, Degradation | None] | None:
        """The stored trial, if it is of this run of the engine and its requests were those of `config`."""
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
