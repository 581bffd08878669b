"""Reports to the launcher a fault of the engine that only a restart can fix (`fault-report.json`).

    WrongOutput                                    corrupt, S4: a bad link between GPUs corrupts data in this way
    healthy, no other load, and yet no token       hang, S3
    serving, with requests on it, and no progress  hang, S3
    anything else                                  no report: a dead draft beside right text is the checkpoint's fault

The launcher restarts the engine at once, so a fault is reported only if the verdict is certain: once per run of the
engine, and withdrawn if that run answers correctly afterwards.
"""

from dataclasses import dataclass
from pathlib import Path

from flash_contracts.engine_pod import FaultReport
from flash_contracts.engine_record import Run
from flash_contracts.gate_config import GateConfig, GoldenQuestion
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.evidence import Evidence
from flash_engine.gate.verdict import Verdict, golden_fault
from flash_engine.log import Logger

log = Logger("flash.gate")


@dataclass(frozen=True)
class ReportedFaults:
    """What has been reported about one run of the engine."""

    run: Run | None = None
    is_reported: bool = False
    answered_correctly: GoldenQuestion | None = None
    """The question, with its expected answer, that this run has answered correctly."""

    def of_run(self, run: Run) -> "ReportedFaults":
        """These, or none if they are of another run."""
        return self if run == self.run else ReportedFaults(run)

    def allow(self, report: FaultReport, config: GateConfig) -> bool:
        """Whether to report this fault.

        An engine that answered correctly until gate.json expected another answer has no bad link.
        """
        same_question = self.answered_correctly in (None, config.golden)
        return not self.is_reported and (report.kind == "hang" or same_question)


def answers_correctly(evidence: Evidence, config: GateConfig) -> bool:
    """Whether the golden question was asked and answered correctly."""
    golden = evidence.trial.golden if evidence.trial else None
    return golden is not None and golden_fault(golden, config) is None


def fault_of_trial(evidence: Evidence, verdict: Verdict, at: str) -> FaultReport | None:
    """The fault that a trial has shown; None if it has shown none, or if no launcher has recorded a run."""
    trial, engine = evidence.trial, evidence.engine
    if trial is None or engine.pid is None:
        return None
    if trial.stalled:
        return FaultReport("hang", "S3", trial.doubt or "", engine.pid, engine.started_at, at)
    if verdict.reason == Reason.WRONG_OUTPUT:
        return FaultReport("corrupt", "S4", verdict.message, engine.pid, engine.started_at, at)
    return None


def hang_while_serving(evidence: Evidence, message: str, at: str) -> FaultReport | None:
    """The fault of an engine that has requests and makes no progress; None if no launcher has recorded a run."""
    engine = evidence.engine
    return FaultReport("hang", "S3", message, engine.pid, engine.started_at, at) if engine.pid is not None else None


class FaultReportFile:
    """The file that the launcher watches."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def write(self, report: FaultReport) -> bool:
        """Whether it was written."""
        try:
            report.write(self._file)
        except OSError as error:
            log.warning("fault report not written", error=str(error))
            return False
        log.warning("fault reported", **report.to_json())
        return True

    def withdraw(self) -> bool:
        """Delete it. False if there was none, or if it could not be deleted."""
        try:
            self._file.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("fault report not withdrawn", error=str(error))
            return False
        log.info("fault report withdrawn")
        return True
