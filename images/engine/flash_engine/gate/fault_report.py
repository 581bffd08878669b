"""What the gate tells the launcher of an engine that only another start can mend (`fault_report.json`).

    WrongOutput                         corrupt, S4: wrong data over the GPUs' link reads like that
    no token, healthy, no other load    hang, S3
    anything else                       nothing: a draft that is dead beside right text is the checkpoint's fault

The launcher acts on it at once, so it is written only where the verdict is sure.
"""

from pathlib import Path

from flash_contracts.document import now
from flash_contracts.engine_pod import FaultReport
from flash_contracts.gate_config import GateConfig, GoldenQuestion
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.evidence import Evidence
from flash_engine.gate.verdict import Verdict, golden_fault
from flash_engine.log import Logger

log = Logger("flash.gate")


class FaultReporter:
    """One file, written once for each run of the engine, and withdrawn where that run then answers rightly."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._run: tuple[int | None, str | None] | None = None
        self._told = False
        self._right_under: GoldenQuestion | None = None
        """The question that this run has answered rightly, and what was expected then."""

    def weigh(self, evidence: Evidence, verdict: Verdict, config: GateConfig) -> None:
        """After a trial under `config`, with what was made of it."""
        if evidence.engine.run != self._run:
            self._run, self._told, self._right_under = evidence.engine.run, False, None
        golden = evidence.trial.golden if evidence.trial else None
        if golden and golden_fault(golden, config) is None:
            self._right_under = config.golden
            self._withdraw()
            return
        fault_report = fault_report_of(evidence, verdict)
        if fault_report and not self._told and (fault_report.kind == "hang" or self._same_question(config)):
            self._write(fault_report)

    def hung(self, evidence: Evidence, message: str) -> None:
        """Of a run that served: requests are on it, and it makes no step."""
        if evidence.engine.run != self._run:
            self._run, self._told, self._right_under = evidence.engine.run, False, None
        if evidence.engine.pid is not None and not self._told:
            self._write(FaultReport("hang", "S3", message, evidence.engine.pid, evidence.engine.started_at, now()))

    def _same_question(self, config: GateConfig) -> bool:
        """Other words expected of an engine that gave the right ones before are no fault of its link."""
        return self._right_under in (None, config.golden)

    def _write(self, fault_report: FaultReport) -> None:
        try:
            fault_report.write(self._file)
        except OSError as error:
            log.warning("suspicion not written", error=str(error))
            return
        self._told = True
        log.warning("suspicion", **fault_report.to_json())

    def _withdraw(self) -> None:
        try:
            self._file.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("suspicion not withdrawn", error=str(error))
            return
        self._told = False
        log.info("suspicion withdrawn")


def fault_report_of(evidence: Evidence, verdict: Verdict) -> FaultReport | None:
    """None where there is nothing to suspect, or no run of the engine that it could be said of."""
    trial, engine = evidence.trial, evidence.engine
    if trial is None or engine.pid is None:
        return None
    if trial.stalled:
        return FaultReport("hang", "S3", trial.doubt or "", engine.pid, engine.started_at, now())
    if verdict.reason == Reason.WRONG_OUTPUT:
        return FaultReport("corrupt", "S4", verdict.message, engine.pid, engine.started_at, now())
    return None
