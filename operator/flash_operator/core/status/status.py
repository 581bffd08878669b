"""The CR's status: what a person needs to answer "why is it not ready", "why these flags", "how fast is it".

The document is built whole and compared with the live one; only a difference is written, so a quiet deployment
costs no request.
"""

from datetime import UTC, datetime
from typing import Literal

from flash_operator.api.status import Condition, FlashStatus, PodStatus, StatusSummary
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.identity import selector
from flash_operator.core.resources.service import endpoint
from flash_operator.core.status.conditions import Finding, findings
from flash_operator.core.status.download_status import delivery_status
from flash_operator.core.status.replica_summary import ReplicaSummary


def status_of(observed: Observed, summary: ReplicaSummary) -> RawObject:
    """The whole desired status, as JSON."""
    flash = observed.flash
    takes_out = flash.spec.readiness.serving.on_degraded != "Report"
    status = FlashStatus(
        conditions=_conditions(observed, summary),
        observed_generation=flash.generation,
        replicas=len(summary.replicas),
        ready_replicas=summary.ready,
        selector=",".join(f"{key}={value}" for key, value in selector(flash).items()),
        endpoint=endpoint(flash),
        summary=_summary(summary),
        rollout=summary.rollout.to_status() if summary.rollout else None,
        model=summary.mtp_restore.status if summary.mtp_restore else None,
        pods=[_pod(replica, observed.live_status, takes_out=takes_out) for replica in summary.replicas],
    )
    return status.model_dump(by_alias=True, exclude_none=True, mode="json")


def _conditions(observed: Observed, summary: ReplicaSummary) -> list[Condition]:
    live = {condition["type"]: condition for condition in observed.live_status.get("conditions", [])}
    return [_condition(name, finding, live.get(name, {}), observed) for name, finding in findings(summary).items()]


def _condition(name: str, finding: Finding, live: RawObject, observed: Observed) -> Condition:
    """The transition time moves with the status alone, as the API conventions have it."""
    unchanged = live.get("status") == finding.status
    since = live.get("lastTransitionTime") if unchanged else None
    return Condition(
        type=name,
        status=finding.status,
        reason=finding.reason,
        message=finding.message[:MESSAGE_LIMIT],
        observed_generation=observed.flash.generation,
        last_transition_time=since or timestamp(observed.now),
    )


MESSAGE_LIMIT = 4096
"""Engine logs are long, and the schema bounds a message."""


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _summary(summary: ReplicaSummary) -> StatusSummary:
    """What the printer columns show: of all replicas the slowest, since that is the one a user will meet."""
    figures = [gate.measurement for gate in summary.measured if gate.measurement]
    if not figures and summary.worst and summary.worst.gate and summary.worst.gate.measurement:
        figures = [summary.worst.gate.measurement]
    shares = [figure.acceptance_percent for figure in figures if figure.acceptance_percent is not None]
    return StatusSummary(
        replicas=f"{summary.ready}/{summary.wanted}",
        decode_tokens_per_second=int(min(f.decode_tokens_per_second for f in figures)) if figures else None,
        acceptance_percent=int(min(shares)) if shares else None,
    )


def _pod(replica: Replica, live: RawObject, *, takes_out: bool) -> PodStatus:
    if replica.known:
        return replica.known
    reason, message = replica.verdict
    figures = replica.gate.measurement if replica.gate else None
    flags = replica.in_force
    incident = replica.incident
    wanted = replica.gate.wanted if replica.gate else None
    return PodStatus(
        name=replica.name,
        uid=replica.uid,
        node=replica.node_name,
        link=replica.node.link if replica.node else None,
        p2p=replica.node.p2p if replica.node else None,
        row=flags.row if flags else None,
        flags=list(flags.explained()) if flags else None,
        flags_origin=replica.origin,
        flags_outdated="Outdated" if replica.flags_outdated else "Current",
        incident=str(incident)[:MESSAGE_LIMIT] if incident else None,
        incident_verdict=_incident_verdict(replica, live) if incident else None,
        reason=reason,
        message=message[:MESSAGE_LIMIT],
        delivery=delivery_status(replica.gate.delivery) if replica.gate else None,
        decode_tokens_per_second=int(figures.decode_tokens_per_second) if figures else None,
        floor_tokens_per_second=_whole(wanted.decode_tokens_per_second) if wanted else None,
        floor_origin=wanted.floor_origin if wanted else None,
        quarantine=_quarantine(replica) if takes_out else None,
        acceptance_percent=_whole(figures.acceptance_percent) if figures else None,
        first_token_millis=_whole(figures.first_token_millis) if figures else None,
        checked_time=replica.gate.checked_at if replica.gate else None,
        image_digest=replica.image_digest,
    )


def _incident_verdict(replica: Replica, live: RawObject) -> Literal["Pending", "Noted"]:
    """Noted once and for all: the node is labelled before the status that says so is written (`Reconciler`)."""
    known = [pod for pod in live.get("pods", []) if pod.get("uid") == replica.uid]
    noted = any(pod.get("incidentVerdict") == "Noted" for pod in known)
    return "Noted" if noted or replica.incident_is_proved else "Pending"


def _quarantine(replica: Replica) -> Literal["Granted", "Waiting"] | None:
    if replica.wish is None:
        return None
    return "Granted" if replica.granted == replica.wish else "Waiting"


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
