"""When to restore the MTP head of a checkpoint, and whether the engines may have what came of it.

    status says          | Job                        | what happens                            | engines
    -------------------- | -------------------------- | --------------------------------------- | ------------------
    not asked for        | none                       | nothing                                 | load the source
    not asked for        | any                        | Job deleted                             | load the source
    restored, this path  | none, or of another key    | nothing                                 | load what it made
    anything else        | none                       | Job made                                | held
    anything else        | of another key             | Job deleted, and made anew              | held
    any                  | under way                  | status tells what it waits for          | held
    any                  | complete                   | status tells its figures                | load what it made
    any                  | failed                     | status tells its sentence; no other try | held

Held: a deployment without replicas gets none, and replicas that run stay as they are.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from flash_contracts.restore_result import RestoreResult
from flash_operator.api.model_spec import RestoreMtpSpec
from flash_operator.api.model_status import ModelStatus
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.mtp_restore.job import key_of, restore_job, restore_name
from flash_operator.core.mtp_restore.result import last_result
from flash_operator.core.observed.pod_failure import PodFailure, failure_of
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.resources.model_source import ModelSource

ONE_MILLION = 1_000_000
MESSAGE_LIMIT = 4096


@dataclass(frozen=True)
class MtpRestore:
    """Where the restoration stands, and what is to be done about its Job."""

    status: ModelStatus
    create: RawObject | None = None
    delete: bool = False
    """The Job that is there."""
    failure: PodFailure | None = None
    """What keeps the Job's pod from running, in the words of the scheduler or the kubelet."""

    @property
    def done(self) -> bool:
        """The engines may load what it made."""
        return self.status.mtp in ("Restored", "Native")

    @property
    def reason(self) -> str:
        if self.failure:
            return self.failure.reason
        return "MtpRestoreFailed" if self.status.mtp == "Failed" else "RestoringMtp"

    @property
    def moving(self) -> bool:
        """It goes on by itself."""
        return self.failure is None and self.status.mtp != "Failed"


def mtp_restore_of(observed: Observed) -> MtpRestore | None:
    """None where no restoration is asked for."""
    restore = observed.flash.spec.model.restore_mtp
    if restore is None or restore.state != "Enabled":
        return None
    return _RestorePlanner(observed).mtp_restore(restore)


def unwanted_job(observed: Observed, mtp_restore: MtpRestore | None) -> bool:
    """There is a Job although nobody asks for a restoration any more."""
    return mtp_restore is None and _job_of(observed) is not None


@dataclass(frozen=True)
class _RestorePlanner:
    """One look at Job, pods and the status that was written last."""

    observed: Observed

    @property
    def flash(self) -> FlashDeployment:
        return self.observed.flash

    @cached_property
    def path(self) -> str:
        return ModelSource(self.flash.spec.model).uri

    @cached_property
    def known(self) -> ModelStatus | None:
        """What status said of this very folder."""
        raw = self.observed.live_status.get("model")
        status = ModelStatus.model_validate(raw) if raw else None
        return status if status and status.path == self.path else None

    def mtp_restore(self, restore: RestoreMtpSpec) -> MtpRestore:
        job, known = _job_of(self.observed), self.known
        wanted = restore_job(self.flash, restore, self.observed.settings)
        of_this_key = job is not None and key_of(job) == key_of(wanted)
        if known and known.mtp in ("Restored", "Native") and not of_this_key:
            return MtpRestore(known)
        if job is None:
            return MtpRestore(self._status("Restoring", f"the Job {restore_name(self.flash)} begins"), create=wanted)
        if not of_this_key or job["metadata"].get("deletionTimestamp"):
            told = "the former Job ends, and one for what is asked for now begins"
            return MtpRestore(self._status("Restoring", told), delete=not job["metadata"].get("deletionTimestamp"))
        return self._of(job)

    def _of(self, job: RawObject) -> MtpRestore:
        result = last_result(self._pods(job))
        ended = _ended(job)
        if ended == "Complete":
            return MtpRestore(self._completed(result))
        if ended == "Failed":
            return MtpRestore(self._failed(job, result))
        failure = next(filter(None, (failure_of(pod) for pod in self._pods(job) if not _over(pod))), None)
        return MtpRestore(self._under_way(job, result, failure), failure=failure)

    def _pods(self, job: RawObject) -> tuple[RawObject, ...]:
        """A Job's labels are those of the one before it; only the uid tells their pods apart."""
        uid = job["metadata"].get("uid")
        pods = self.observed.restore_pods
        return tuple(pod for pod in pods if uid in [o["uid"] for o in pod["metadata"].get("ownerReferences", [])])

    def _completed(self, result: RestoreResult | None) -> ModelStatus:
        """Pods of Jobs that ended may be cleared away; what they said stays in status."""
        if result is None or result.state == "Failed":
            kept = self.known if self.known and self.known.mtp in ("Restored", "Native") else None
            return kept or self._status("Restored", "the Job is complete; its pod, and with it its figures, is gone")
        return self._status("Native" if result.state == "NotNeeded" else "Restored", result.message, result)

    def _failed(self, job: RawObject, result: RestoreResult | None) -> ModelStatus:
        name, namespace = restore_name(self.flash), self.flash.namespace
        told = result.message if result else _why(job)
        again = f"mend it, then change spec.model.restoreMtp, or: kubectl delete job -n {namespace} {name}"
        return self._status("Failed", f"{told[: MESSAGE_LIMIT - len(again) - 2]}; {again}")

    def _under_way(self, job: RawObject, result: RestoreResult | None, failure: PodFailure | None) -> ModelStatus:
        name = restore_name(self.flash)
        if failure:
            told = f"the Job {name} waits: {failure.message}"
            if failure.reason == "Unschedulable" and self.observed.pods:
                told += "; where this deployment's own replicas hold the GPUs, scale it to 0 until the Job is done"
            return self._status("Restoring", told)
        tries = f"; an earlier try ended: {result.message}" if result else ""
        nodes = [pod["spec"]["nodeName"] for pod in self._pods(job) if pod["spec"].get("nodeName") and not _over(pod)]
        where = f"runs on {nodes[0]}" if nodes else "waits for its pod"
        look = f"kubectl logs -f -n {self.flash.namespace} job/{name} shows how far it is"
        return self._status("Restoring", f"the Job {name} {where}; {look}{tries}")

    def _status(
        self, mtp: Literal["Restoring", "Restored", "Native", "Failed"], told: str, result: RestoreResult | None = None
    ) -> ModelStatus:
        figures = result.figures if result else None
        error = figures.worst_error if figures else None
        return ModelStatus(
            path=self.path,
            mtp=mtp,
            message=told[:MESSAGE_LIMIT],
            matrices_gptq=figures.gptq if figures else None,
            matrices_rounded=figures.rtn if figures else None,
            worst_error_per_million=None if error is None else round(error * ONE_MILLION),
            seconds=round(figures.seconds) if figures else None,
        )


def _job_of(observed: Observed) -> RawObject | None:
    return observed.children.get(("Job", restore_name(observed.flash)))


def _ended(job: RawObject) -> str | None:
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return None


def _why(job: RawObject) -> str:
    """In the words of the Job's controller."""
    failed = next(c for c in job["status"]["conditions"] if c["type"] == "Failed")
    return f"{failed.get('reason', 'Failed')}: {failed.get('message', '')}"


def _over(pod: RawObject) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
