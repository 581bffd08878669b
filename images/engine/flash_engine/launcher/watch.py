"""The watch over one run of the engine: does its start hang, or does the gate suspect it?

Its own rule (`signature`) ends once the engine has started, for an engine without requests is silent and still by
nature. From then on only the gate knows, which asks the engine something.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_contracts.document import BadDocumentError
from flash_contracts.engine_pod import FaultReport
from flash_contracts.engine_record import FaultKind, Run
from flash_engine.launcher.gpu_watch import GpuWatch
from flash_engine.launcher.hang_detection import StallWindow, Vitals, evidence, signature
from flash_engine.launcher.progress import Milestone, Progress
from flash_engine.log import Logger
from flash_engine.processes import process_tree

log = Logger("flash.launcher")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a run of the engine, and mended by a start with other flags if by anything."""

    kind: FaultKind
    signature: str
    detail: str
    evidence: dict[str, Any]


class SuspicionFile:
    """What the gate has written of one run; whatever else stands there is told once and ignored."""

    def __init__(self, file: Path, run: Run) -> None:
        self._file = file
        self._run = run
        self._text = b""
        self._suspicion: FaultReport | None = None

    def read(self) -> FaultReport | None:
        try:
            text = self._file.read_bytes()
        except OSError:
            text = b""
        if text != self._text:
            self._text, self._suspicion = text, self._parse(text) if text else None
        return self._suspicion

    def _parse(self, text: bytes) -> FaultReport | None:
        try:
            suspicion = FaultReport.parse_text(text)
        except BadDocumentError as error:
            log.warning("suspicion ignored", file=str(self._file), error=str(error))
            return None
        if suspicion.run != self._run:
            log.warning("suspicion ignored", file=str(self._file), error=f"it is about another run, {suspicion.run}")
            return None
        return suspicion


class Watch:
    """Looks at one run; each look takes a few milliseconds and never waits."""

    def __init__(
        self,
        run: Run,
        progress: Progress,
        suspicion_file: Path,
        gpus: GpuWatch,
        *,
        hang_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leader, _ = run
        self._progress = progress
        self._suspicions = SuspicionFile(suspicion_file, run)
        self._gpus = gpus
        self._hang_seconds = hang_seconds
        self._clock = clock
        self._stillness: StallWindow | None = None
        self._told: set[str] = set()

    def look(self) -> Fault | None:
        """The fault that it shows now. The same one may come again; what was only worth saying was said."""
        return self._hang() or self._suspected()

    def _hang(self) -> Fault | None:
        if not self._hang_seconds or self._progress.milestone is Milestone.READY:
            return None
        stillness = self._observe()
        finding = signature(stillness, self._progress.milestone, self._hang_seconds)
        if finding is None:
            return None
        if finding.signature == "S9":
            self._say_once("compiling", "the start is silent and compiles", signature="S9", detail=finding.detail)
            return None
        return Fault("hang", finding.signature, finding.detail, self._with_last_line(finding.evidence))

    def _suspected(self) -> Fault | None:
        suspicion = self._suspicions.read()
        if suspicion is None:
            return None
        if suspicion.kind != "hang":
            return Fault(suspicion.kind, suspicion.signature, suspicion.message, {"suspectedAt": suspicion.at})
        # The first request of its kind may wait for kernels to be compiled, and the gate cannot see that.
        stillness = self._observe()
        if stillness.compiled_within(self._hang_seconds):
            self._say_once("suspected", "suspicion put off: kernels are compiled", message=suspicion.message)
            return None
        seen = evidence(stillness, self._progress.milestone)
        return Fault("hang", suspicion.signature, suspicion.message, {"suspectedAt": suspicion.at, **seen})

    def _observe(self) -> StallWindow:
        at = self._clock()
        crew = process_tree(self._leader or 0)
        vitals = Vitals(
            at=at,
            said_at=self._progress.said_at,
            cpu_seconds=crew.cpu_seconds,
            io_bytes=crew.io_bytes,
            waits_for_disk=crew.waits_for_disk,
            compilers=crew.compilers,
            gpus=self._gpus.latest(at),
        )
        self._stillness = self._stillness.after(vitals) if self._stillness else StallWindow.begin(vitals)
        return self._stillness

    def _with_last_line(self, seen: dict[str, Any]) -> dict[str, Any]:
        return {**seen, "lastLine": self._progress.last_line}

    def _say_once(self, key: str, event: str, **fields: object) -> None:
        if key not in self._told:
            self._told.add(key)
            log.info(event, **fields)
