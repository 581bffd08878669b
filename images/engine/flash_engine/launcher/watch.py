"""Watches one run of the engine: detects a hang of its start, and reads the gate's fault reports.

Hang detection ends once the engine has started, because an engine without requests is silent and idle. From then on
only the gate can tell, because it sends requests.
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
from flash_engine.launcher.hang_detection import StallWindow, Vitals, evidence, hang_signature
from flash_engine.launcher.progress import Milestone, Progress
from flash_engine.log import Logger
from flash_engine.processes import process_tree

log = Logger("flash.launcher")


@dataclass(frozen=True)
class Fault:
    """A problem of one run of the engine that only a restart with other flags may solve."""

    kind: FaultKind
    signature: str
    detail: str
    evidence: dict[str, Any]


class FaultReportReader:
    """Reads the gate's report about one run. Anything else in the file is logged once and ignored."""

    def __init__(self, file: Path, run: Run) -> None:
        self._file = file
        self._run = run
        self._text = b""
        self._report: FaultReport | None = None

    def read(self) -> FaultReport | None:
        try:
            text = self._file.read_bytes()
        except OSError:
            text = b""
        if text != self._text:
            self._text, self._report = text, self._parse(text) if text else None
        return self._report

    def _parse(self, text: bytes) -> FaultReport | None:
        try:
            report = FaultReport.parse_text(text)
        except BadDocumentError as error:
            log.warning("fault report ignored", file=str(self._file), error=str(error))
            return None
        if report.run != self._run:
            log.warning("fault report ignored", file=str(self._file), error=f"it is about another run, {report.run}")
            return None
        return report


class Watch:
    """Checks one run; each check takes a few milliseconds and never blocks."""

    def __init__(
        self,
        run: Run,
        progress: Progress,
        report_file: Path,
        gpus: GpuWatch,
        *,
        hang_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leader, _ = run
        self._progress = progress
        self._fault_reports = FaultReportReader(report_file, run)
        self._gpus = gpus
        self._hang_seconds = hang_seconds
        self._clock = clock
        self._window: StallWindow | None = None
        self._logged: set[str] = set()

    def check(self) -> Fault | None:
        """The current fault, if any. Returns the same fault again as long as it lasts."""
        return self._hang() or self._reported_fault()

    def _hang(self) -> Fault | None:
        if not self._hang_seconds or self._progress.milestone is Milestone.READY:
            return None
        window = self._observe()
        found = hang_signature(window, self._progress.milestone, self._hang_seconds)
        if found is None:
            return None
        if found.signature == "S9":
            self._log_once("compiling", "the engine is silent because it compiles", signature="S9", detail=found.detail)
            return None
        return Fault("hang", found.signature, found.detail, self._with_last_line(found.evidence))

    def _reported_fault(self) -> Fault | None:
        report = self._fault_reports.read()
        if report is None:
            return None
        if report.kind != "hang":
            return Fault(report.kind, report.signature, report.message, {"suspectedAt": report.at})
        # The first request of its kind may wait for kernels to compile, which the gate cannot see.
        window = self._observe()
        if window.compiled_within(self._hang_seconds):
            self._log_once("suspected", "fault report deferred: kernels are being compiled", message=report.message)
            return None
        seen = evidence(window, self._progress.milestone)
        return Fault("hang", report.signature, report.message, {"suspectedAt": report.at, **seen})

    def _observe(self) -> StallWindow:
        at = self._clock()
        tree = process_tree(self._leader or 0)
        vitals = Vitals(
            at=at,
            logged_at=self._progress.logged_at,
            cpu_seconds=tree.cpu_seconds,
            io_bytes=tree.io_bytes,
            waits_for_disk=tree.waits_for_disk,
            compilers=tree.compilers,
            gpus=self._gpus.latest(at),
        )
        self._window = self._window.after(vitals) if self._window else StallWindow.begin(vitals)
        return self._window

    def _with_last_line(self, seen: dict[str, Any]) -> dict[str, Any]:
        return {**seen, "lastLine": self._progress.last_line}

    def _log_once(self, key: str, event: str, **fields: object) -> None:
        if key not in self._logged:
            self._logged.add(key)
            log.info(event, **fields)
