"""Watches one run of the engine: detects a hang at its start, and reads the gate's fault reports.

Hang detection ends once the engine has started, because an engine without requests is silent and idle. From then on,
only the gate can detect a hang, because it sends requests. But only the launcher sees whether such an engine computes.
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
from flash_engine.launcher.hang_detection import ReportedHang, StallWindow, Vitals, hang_signature
from flash_engine.launcher.progress import Milestone, Progress
from flash_engine.log import Logger
from flash_engine.processes import process_tree

log = Logger("flash.launcher")


@dataclass(frozen=True)
class Fault:
    """A problem of one run of the engine that only a restart with other flags can solve."""

    kind: FaultKind
    signature: str
    detail: str
    evidence: dict[str, Any]
    asked: str = ""
    """`FaultReport.asked`, if the gate found it."""


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
        self._reported: ReportedHang | None = None
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

    @property
    def computing(self) -> str | None:
        """What the engine did after the gate reported a hang; None if nothing, or without a report."""
        return self._reported.computing if self._reported else None

    def _reported_fault(self) -> Fault | None:
        report = self._fault_reports.read()
        if report is None or report.kind != "hang":
            self._reported = None
        if report is None:
            return None
        seen = {"suspectedAt": report.at}
        if report.kind != "hang":
            return Fault(report.kind, report.signature, report.message, seen, report.asked)
        # The gate cannot see whether the engine computes: the first request of a kind waits for kernels to compile.
        vitals = self._vitals()
        self._reported = self._reported.after(vitals) if self._reported else ReportedHang.begin(vitals)
        if self._reported.computing:
            doing = {"message": report.message, "computing": self._reported.computing}
            self._log_once("suspected", "fault report deferred: the engine computes", **doing)
        if not self._reported.is_confirmed(self._hang_seconds):
            return None
        return Fault("hang", report.signature, report.message, {**seen, **self._reported.evidence})

    def _observe(self) -> StallWindow:
        vitals = self._vitals()
        self._window = self._window.after(vitals) if self._window else StallWindow.begin(vitals)
        return self._window

    def _vitals(self) -> Vitals:
        at = self._clock()
        tree = process_tree(self._leader or 0)
        return Vitals(
            at=at,
            logged_at=self._progress.logged_at,
            cpu_seconds=tree.cpu_seconds,
            io_bytes=tree.io_bytes,
            waits_for_disk=tree.waits_for_disk,
            compilers=tree.compilers,
            gpus=self._gpus.latest(at),
        )

    def _with_last_line(self, seen: dict[str, Any]) -> dict[str, Any]:
        return {**seen, "lastLine": self._progress.last_line}

    def _log_once(self, key: str, event: str, **fields: object) -> None:
        if key not in self._logged:
            self._logged.add(key)
            log.info(event, **fields)
