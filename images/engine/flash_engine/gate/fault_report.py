"""Reports to the launcher a fault of the engine that only a restart can fix (`fault-report.json`).

    WrongOutput                                    corrupt, S4: a bad link between GPUs corrupts data in this way
    two answers that differ, neither of them bad   no report: greedy answers may differ, and no answer was expected
    healthy, no other load, and yet no token       hang, S3: the launcher looks whether the engine computes
    serving, with requests on it, and no progress  likewise
    anything else                                  no report: a dead draft beside right text is the checkpoint's fault

The launcher restarts the engine, so a fault is reported only if the verdict is certain: once per run of the engine, and
withdrawn if that run answers correctly, or makes progress, afterwards.

A fault that is gone without peer-to-peer is blamed on the links only if it is proven (`incident_is_proven`).
"""

from dataclasses import dataclass
from pathlib import Path

from flash_contracts.engine_pod import FaultReport
from flash_contracts.engine_record import Run
from flash_contracts.gate_config import GateConfig, GoldenQuestion
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.answer_checks import golden_fault
from flash_engine.gate.evidence import Evidence, GoldenAnswers, Trial
from flash_engine.gate.verdict import Verdict
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


def fault_of_trial(evidence: Evidence, verdict: Verdict, config: GateConfig, at: str) -> FaultReport | None:
    """The fault that a trial has shown; None if it has shown none, or if no launcher has recorded a run."""
    trial, engine = evidence.trial, evidence.engine
    if trial is None or engine.pid is None:
        return None
    if trial.stalled:
        return FaultReport("hang", "S3", trial.doubt or "", engine.pid, engine.started_at, at)
    if verdict.reason == Reason.WRONG_OUTPUT and not _answers_only_differ(trial, config):
        asked = config.golden.identity
        return FaultReport("corrupt", "S4", verdict.message, engine.pid, engine.started_at, at, asked)
    return None


def _answers_only_differ(trial: Trial, config: GateConfig) -> bool:
    """Each answer is well formed and none was expected: equally good words are no corrupt data."""
    golden = trial.golden
    if golden is None or golden_fault(golden, config) is None:
        return False
    return all(golden_fault(GoldenAnswers((text,)), config) is None for text in golden.texts)


def refutes_incident(evidence: Evidence, config: GateConfig) -> bool:
    """The answer is wrong without peer-to-peer as well, so the question or the checkpoint is at fault."""
    incident, golden = evidence.engine.incident, evidence.trial.golden if evidence.trial else None
    is_same = incident is not None and incident.asked == config.golden.identity
    return is_same and golden is not None and golden_fault(golden, config) is not None


def incident_is_proven(evidence: Evidence, config: GateConfig, *, refuted: bool) -> bool:
    """Whether the links caused the engine's incident. The operator adds that this run has the safe flags.

    incident                             proof
    corrupt                              a right answer to the same question with the same expectation, and never a
                                         wrong one since
    a start that hung (S1, S2)           a run that starts and answers
    no token after a start (S3)          the same, if the GPUs were seen to spin: a second start may only be faster
                                         because the first one has compiled its kernels
    """
    incident = evidence.engine.incident
    if incident is None or evidence.measurement is None or not answers_correctly(evidence, config):
        return False
    if incident.kind == "corrupt":
        return not refuted and incident.asked == config.golden.identity
    return incident.signature != "S3" or incident.evidence.get("gpusSpin") is True


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
        """Delete it. False if it could not be deleted."""
        try:
            self._file.unlink()
        except FileNotFoundError:
            return True
        except OSError as error:
            log.warning("fault report not withdrawn", error=str(error))
            return False
        log.info("fault report withdrawn")
        return True
