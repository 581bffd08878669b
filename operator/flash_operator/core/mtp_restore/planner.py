"""Plans the restore of a checkpoint's MTP head, and decides when the engines may load the result.

    status               | Job                        | action                                  | engines
    -------------------- | -------------------------- | --------------------------------------- | ------------------
    not configured       | none                       | none                                    | load the source
    not configured       | any                        | delete the Job                          | load the source
    restored, this path  | none, or with another key  | none                                    | load the result
    anything else        | none                       | create the Job                          | held
    anything else        | with another key           | delete the Job, then create a new one   | held
    any                  | running                    | report what it waits for                | held
    any                  | complete                   | report its figures                      | load the result
    any                  | failed                     | report its message; do not retry        | held

Held: no replicas are created, and running replicas stay as they are.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from flash_contracts.restore_result import RestoreResult
from flash_operator.api.model_spec import RestoreMtpSpec
from flash_operator.api.status import ModelStatus
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.mtp_restore.job import key_of, restore_job, restore_name
from flash_operator.core.mtp_restore.result import last_result
from flash_operator.core.observed.kube import condition_of, has_ended, is_owned_by, job_outcome
from flash_operator.core.observed.pod_failure import PodFailure, failure_of
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.resources.model_source import ModelSource

ONE_MILLION = 1_000_000
MESSAGE_LIMIT = 4096


@dataclass(frozen=True)
class MtpRestore:
    """The state of the restore, and what to do about its Job."""

    status: ModelStatus
    create: RawObject | None = None
    delete: bool = False
    """Delete the existing Job."""
    failure: PodFailure | None = None
    """Why the Job's pod does not run, from the scheduler or the kubelet."""

    @property
    def done(self) -> bool:
        """The engines may load the result."""
        return self.status.mtp in ("Restored", "Native")

    @property
    def reason(self) -> str:
        if self.failure:
            return self.failure.reason
        return "MtpRestoreFailed" if self.status.mtp == "Failed" else "RestoringMtp"

    @property
    def progressing(self) -> bool:
        """It continues without intervention."""
        return self.failure is None and self.status.mtp != "Failed"


def mtp_restore_of(observed: Observed) -> MtpRestore | None:
    """None if no restore is configured."""
    restore = observed.flash.spec.model.restore_mtp
    if restore is None or restore.state != "Enabled":
        return None
    return _RestorePlanner(observed).mtp_restore(restore)


def has_orphaned_job(observed: Observed, mtp_restore: MtpRestore | None) -> bool:
    """A Job exists although no restore is configured any more."""
    return mtp_restore is None and _job_of(observed) is not None


@dataclass(frozen=True)
class _RestorePlanner:
    """Plans from the Job, its pods and the last status."""

    observed: Observed

    @property
    def flash(self) -> FlashDeployment:
        return self.observed.flash

    @cached_property
    def path(self) -> str:
        return ModelSource(self.flash.spec.model).uri

    @cached_property
    def known(self) -> ModelStatus | None:
        """The last status, if it is about the same folder."""
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
            return MtpRestore(self._status("Restoring", f"starting the Job {restore_name(self.flash)}"), create=wanted)
        if not of_this_key or job["metadata"].get("deletionTimestamp"):
            message = "replacing the Job, because spec.model.restoreMtp has changed"
            return MtpRestore(self._status("Restoring", message), delete=not job["metadata"].get("deletionTimestamp"))
        return self._of_job(job)

    def _of_job(self, job: RawObject) -> MtpRestore:
        result = last_result(self._pods(job))
        ended = job_outcome(job)
        if ended == "Complete":
            return MtpRestore(self._completed(result))
        if ended == "Failed":
            return MtpRestore(self._failed(job, result))
        failure = next(filter(None, (failure_of(pod) for pod in self._pods(job) if not has_ended(pod))), None)
        return MtpRestore(self._under_way(job, result, failure), failure=failure)

    def _pods(self, job: RawObject) -> tuple[RawObject, ...]:
        """Compares owner uids, because successive Jobs have the same labels."""
        uid = str(job["metadata"].get("uid"))
        return tuple(pod for pod in self.observed.restore_pods if is_owned_by(pod, uid))

    def _completed(self, result: RestoreResult | None) -> ModelStatus:
        """The result stays in status after the Job's pods were deleted."""
        if result is None or result.state == "Failed":
            kept = self.known if self.known and self.known.mtp in ("Restored", "Native") else None
            return kept or self._status("Restored", "the Job is complete; its pod with the figures was deleted")
        return self._status("Native" if result.state == "NotNeeded" else "Restored", result.message, result)

    def _failed(self, job: RawObject, result: RestoreResult | None) -> ModelStatus:
        name, namespace = restore_name(self.flash), self.flash.namespace
        message = result.message if result else _failure_message(job)
        again = f"fix it, then change spec.model.restoreMtp, or run: kubectl delete job -n {namespace} {name}"
        return self._status("Failed", f"{message[: MESSAGE_LIMIT - len(again) - 2]}; {again}")

    def _under_way(self, job: RawObject, result: RestoreResult | None, failure: PodFailure | None) -> ModelStatus:
        name = restore_name(self.flash)
        if failure:
            message = f"the Job {name} waits: {failure.message}"
            if failure.reason == "Unschedulable" and self.observed.pods:
                message += "; if this deployment's own replicas use the GPUs, scale it to 0 until the Job is done"
            return self._status("Restoring", message)
        tries = f"; an earlier try failed: {result.message}" if result else ""
        nodes = [
            pod["spec"]["nodeName"] for pod in self._pods(job) if pod["spec"].get("nodeName") and not has_ended(pod)
        ]
        where = f"is running on {nodes[0]}" if nodes else "is waiting for its pod"
        look = f"kubectl logs -f -n {self.flash.namespace} job/{name} shows its progress"
        return self._status("Restoring", f"the Job {name} {where}; {look}{tries}")

    def _status(
        self,
        mtp: Literal["Restoring", "Restored", "Native", "Failed"],
        message: str,
        result: RestoreResult | None = None,
    ) -> ModelStatus:
        figures = result.figures if result else None
        error = figures.worst_error if figures else None
        return ModelStatus(
            path=self.path,
            mtp=mtp,
            message=message[:MESSAGE_LIMIT],
            matrices_gptq=figures.gptq if figures else None,
            matrices_rounded=figures.rtn if figures else None,
            worst_error_per_million=None if error is None else round(error * ONE_MILLION),
            seconds=round(figures.seconds) if figures else None,
        )


def _job_of(observed: Observed) -> RawObject | None:
    return observed.children.get(("Job", restore_name(observed.flash)))


def _failure_message(job: RawObject) -> str:
    """The Job controller's reason and message."""
    failed = condition_of(job, "Failed") or {}
    return f"{failed.get('reason', 'Failed')}: {failed.get('message', '')}"
