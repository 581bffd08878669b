"""Reports to the launcher a fault of the engine that only a restart can fix (`fault-report.json`).

    a text that is wrong, whatever was asked       corrupt, S4: a bad link between GPUs corrupts data like this
    right except for a leaked special token        no report: vLLM leaks them when it drafts several tokens per step
    two texts that differ, neither of them bad     no report: greedy answers may differ
    healthy, no other load, but no token           hang, S3: the launcher checks whether the engine computes
    serving, with requests on it, but no progress  likewise
    anything else                                  no report: a dead draft with right text is the checkpoint's fault

The launcher restarts the engine, so a fault is reported only if the verdict is certain: once per run of the engine, and
withdrawn if that run answers correctly, or makes progress, afterwards.

A fault that disappears without peer-to-peer is blamed on the links only if that is proven (`incident_is_proven`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flash_contracts.engine_pod import FaultReport
from flash_contracts.engine_record import Run
from flash_contracts.gate_config import GateConfig
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.answer_checks import Flaw, TextKind, fault_of, identity, kind_of, right_texts, wrong_text
from flash_engine.gate.evidence import Evidence
from flash_engine.gate.verdict import Verdict
from flash_engine.log import Logger

log = Logger("flash.gate")


PROOFS = frozenset({TextKind.GOLDEN, TextKind.LONG_ANSWER, TextKind.TIMED})
"""Texts of a single request that is the same each time. A long prompt differs each time, and the effect of concurrent
requests on each other is chance: such a fault restarts the engine, but its absence afterwards proves nothing."""


@dataclass(frozen=True)
class ReportedFaults:
    """What has been reported about one run of the engine, and what that run got right."""

    run: Run | None = None
    is_reported: bool = False
    right: Mapping[TextKind, str] = field(default_factory=dict)
    """The kinds of text that this run got right, and what was asked (`answer_checks.identity`)."""
    has_passed: bool = False
    """A trial of this run had all its texts right."""

    def of_run(self, run: Run) -> "ReportedFaults":
        """These, or none if they are of another run."""
        return self if run == self.run else ReportedFaults(run)

    def allow(self, report: FaultReport, config: GateConfig) -> bool:
        """Whether to report this fault.

        If an engine's texts were right until gate.json changed the question or the expected answer, its links are
        sound. Reporting it would restart every engine of a deployment at once, after one edit of that file.
        """
        if self.is_reported:
            return False
        kind = kind_of(report.asked, config) if report.kind == "corrupt" else None
        before = self.right.get(kind) if kind else report.asked
        return before == report.asked or (before is None and not self.has_passed)


def texts_are_right(evidence: Evidence, config: GateConfig) -> bool:
    """Whether the golden question was asked and no text was wrong."""
    trial = evidence.trial
    return trial is not None and trial.golden is not None and wrong_text(trial, config) is None


def fault_of_trial(evidence: Evidence, verdict: Verdict, config: GateConfig, at: str) -> FaultReport | None:
    """The fault that a trial has shown; None if it has shown none, or if no launcher has recorded a run."""
    trial, engine = evidence.trial, evidence.engine
    if trial is None or engine.pid is None:
        return None
    if trial.stalled:
        return FaultReport("hang", "S3", trial.doubt or "", engine.pid, engine.started_at, at)
    wrong = wrong_text(trial, config) if verdict.reason == Reason.WRONG_OUTPUT else None
    if wrong is None or wrong.fault.flaw is not Flaw.WRONG:
        return None
    asked = identity(wrong.kind, config) or ""
    return FaultReport("corrupt", "S4", verdict.message, engine.pid, engine.started_at, at, asked)


def refutes_incident(evidence: Evidence, config: GateConfig) -> bool:
    """Whether the text is wrong without peer-to-peer too: then the question, the checkpoint or a kernel is at fault."""
    incident, trial = evidence.engine.incident, evidence.trial
    kind = kind_of(incident.asked, config) if incident else None
    return kind is not None and trial is not None and fault_of(kind, trial, config) is not None


def incident_is_proven(evidence: Evidence, config: GateConfig, faults: ReportedFaults, *, refuted: bool) -> bool:
    """Whether the links caused the engine's incident. The operator also checks that this run has the safe flags.

    incident                             proof
    corrupt                              right texts to the same request with the same expectation, and never a
                                         wrong one since; for those of `PROOFS` only
    a start that hung (S1, S2)           a run that starts and answers
    no token after a start (S3)          the same, if the GPUs were seen to spin: a second start may be faster only
                                         because the first one has compiled its kernels
    """
    incident, trial = evidence.engine.incident, evidence.trial
    if incident is None or trial is None or trial.measurement is None or not texts_are_right(evidence, config):
        return False
    if incident.kind == "corrupt":
        right = {**faults.of_run(evidence.engine.run).right, **right_texts(trial, config)}
        return not refuted and any(right.get(kind) == incident.asked for kind in PROOFS)
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
