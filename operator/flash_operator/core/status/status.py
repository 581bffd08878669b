"""The CR's status. It answers "why is it not ready", "why these flags" and "how fast is it".

The whole document is built on every reconcile and written only if it differs from the live one, so an idle deployment
costs no request.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from flash_contracts.verdict_reason import Reason
from flash_operator.api.status import (
    Condition,
    FlashStatus,
    FullDepthStatus,
    OrderStatus,
    PodStatus,
    ScalingStatus,
    StatusSummary,
)
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.identity import selector
from flash_operator.core.resources.revision import revision_of
from flash_operator.core.resources.service import endpoint
from flash_operator.core.rollout.orders import order_statuses
from flash_operator.core.scaling.scaling_status import demand_status, scaling_status
from flash_operator.core.status.conditions import ConditionState, condition_states
from flash_operator.core.status.download_status import delivery_status
from flash_operator.core.status.replica_summary import ReplicaSummary
from flash_operator.core.status.spec_condition import SPEC_VALID, spec_condition

CONDITION_SECONDS = 1.0
"""At least this long between two writes because of a condition: a new Deployment changes three times in its first
second."""
FIGURE_SECONDS = 10.0
"""The same where only messages and figures differ."""

LISTED = 2
"""Values in a column of `kubectl get dsf -o wide`."""

MESSAGE_LIMIT = 4096
"""The schema's limit; messages with engine logs are longer."""


def status_of(observed: Observed, summary: ReplicaSummary) -> RawObject:
    """The whole desired status, as JSON."""
    flash = observed.flash
    quarantines = flash.spec.readiness.serving.on_degraded != "Report"
    pods = [_pod(replica, observed.live_status, quarantines=quarantines) for replica in summary.replicas]
    conditions = _conditions(observed, summary)
    status = FlashStatus(
        conditions=conditions,
        observed_generation=_carried_out(observed),
        replicas=len(summary.replicas),
        ready_replicas=summary.ready,
        first_ready_time=observed.live_status.get("firstReadyTime") or _ready_since(conditions),
        selector=",".join(f"{key}={value}" for key, value in selector(flash).items()),
        endpoint=endpoint(flash),
        summary=_summary(summary, pods),
        rollout=summary.rollout.to_status() if summary.rollout else None,
        update=summary.update,
        orders=_orders(observed, summary),
        model=summary.mtp_restore.status if summary.mtp_restore else None,
        demand=demand_status(summary.scaling.demand) if summary.scaling else None,
        scaling=_scaling(observed, summary),
        pods=pods,
    )
    return status.model_dump(by_alias=True, exclude_none=True, mode="json")


def _orders(observed: Observed, summary: ReplicaSummary) -> list[OrderStatus] | None:
    if summary.rollout is None:
        return None
    return order_statuses(observed.flash, revision_of(summary.rollout.template), held=summary.held) or None


def _scaling(observed: Observed, summary: ReplicaSummary) -> ScalingStatus | None:
    if summary.scaling is None:
        return None
    return scaling_status(summary.scaling.decision, observed.flash.name, observed.live_status.get("scaling"))


def is_written(status: RawObject, live_status: RawObject) -> bool:
    """Whether the live status says all of this, and nothing more but other controllers' conditions."""
    ours = {condition["type"] for condition in status["conditions"]}
    conditions = [condition for condition in live_status.get("conditions", []) if condition["type"] in ours]
    return status == {**live_status, "conditions": conditions}


def status_interval(status: RawObject, live_status: RawObject) -> float:
    """How many seconds after the last write this status may be written; after the first look if there was none.

    The first one may wait for the nodes of the pods, which schedulers choose within a second. The next reconcile
    decides from what this one records, so decisions never wait. Nor does Ready: users wait for it.
    """
    if not live_status and _only_begins(status):
        return CONDITION_SECONDS
    if _decisions(status) != _decisions(live_status):
        return 0.0
    return CONDITION_SECONDS if _states(status) != _states(live_status) else FIGURE_SECONDS


def _only_begins(status: RawObject) -> bool:
    """It says no more than that the deployment was seen: nothing is wrong, no pod has a node, no autoscaler needs the
    selector, and no user waits for an answer."""
    reasons = {condition["type"]: condition["reason"] for condition in status["conditions"]}
    says_more = "ScalingActive" in reasons or "orders" in status or any(pod.get("node") for pod in status["pods"])
    return reasons["Ready"] in ("RollingOut", "PodsMissing", Reason.ENGINE_STARTING) and not says_more


def _decisions(status: RawObject) -> object:
    pods = [(pod["uid"], pod.get("quarantine"), pod.get("incidentVerdict")) for pod in status.get("pods", [])]
    taken = [pod for pod in pods if pod[1:] != (None, None)]
    update = {**(status.get("update") or {}), "message": None}
    rollout = {**(status.get("rollout") or {}), "message": None}
    ready = [condition["status"] for condition in status.get("conditions", []) if condition["type"] == "Ready"]
    made = (status.get("model") or {}).get("mtp"), status.get("scaling"), status.get("orders")
    return status.get("observedGeneration"), ready, rollout, update, made, taken


def _states(status: RawObject) -> object:
    conditions = {c["type"]: (c["status"], c.get("reason")) for c in status.get("conditions", [])}
    phases = [(p["uid"], p.get("reason"), (p.get("delivery") or {}).get("phase")) for p in status.get("pods", [])]
    return conditions, phases, status.get("replicas"), status.get("readyReplicas")


def _conditions(observed: Observed, summary: ReplicaSummary) -> list[Condition]:
    live = {condition["type"]: condition for condition in observed.live_status.get("conditions", [])}
    states, valid = condition_states(summary), spec_condition(observed)
    states = {**states, SPEC_VALID: valid} if valid else states
    return [_condition(name, state, live.get(name, {}), observed) for name, state in states.items()]


def _ready_since(conditions: list[Condition]) -> str | None:
    """When Ready became True; None if it is not."""
    return next((one.last_transition_time for one in conditions if one.type == "Ready" and one.status == "True"), None)


def _condition(name: str, state: ConditionState, live: RawObject, observed: Observed) -> Condition:
    """The transition time changes only with the condition's status, as the API conventions require."""
    unchanged = live.get("status") == state.status
    since = live.get("lastTransitionTime") if unchanged else None
    return Condition(
        type=name,
        status=state.status,
        reason=state.reason,
        message=state.message[:MESSAGE_LIMIT],
        observed_generation=observed.flash.generation,
        last_transition_time=since or timestamp(observed.now),
    )


def _carried_out(observed: Observed) -> int:
    """While a child is refused, the spec is not carried out: the next try is still one for a new spec."""
    if observed.refusal or observed.name_taken:
        return int(observed.live_status.get("observedGeneration", 0))
    return observed.flash.generation


def timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _summary(summary: ReplicaSummary, pods: list[PodStatus]) -> StatusSummary:
    """The printer columns: figures of the slowest replica, because users will notice that one. What is said of nodes
    and flags is in `pods` as well, so that these columns never cause a write of their own."""
    figures = [gate.measurement for gate in summary.measured if gate.measurement]
    if not figures and summary.worst and summary.worst.gate and summary.worst.gate.measurement:
        figures = [summary.worst.gate.measurement]
    shares = [figure.acceptance_percent for figure in figures if figure.acceptance_percent is not None]
    return StatusSummary(
        replicas=f"{summary.ready}/{summary.wanted}",
        decode_tokens_per_second=int(min(f.decode_tokens_per_second for f in figures)) if figures else None,
        acceptance_percent=int(min(shares)) if shares else None,
        update=None if summary.update.state == "UpToDate" else summary.update.state,
        nodes=_listed(pod.node for pod in pods),
        link=_listed(pod.link for pod in pods),
        p2p=_listed(pod.p2p for pod in pods),
        row=_listed(f"{p.row}{'*' if p.flags_outdated == 'Outdated' else ''}" if p.row else None for p in pods),
    )


def _listed(values: Iterable[str | None]) -> str | None:
    """The different ones, short enough for a column: at most two, and how many more there are."""
    known = sorted({value for value in values if value})
    more = [f"+{len(known) - LISTED}"] if len(known) > LISTED else []
    return ",".join([*known[:LISTED], *more]) or None


def _pod(replica: Replica, live: RawObject, *, quarantines: bool) -> PodStatus:
    if replica.last_status:
        return replica.last_status
    reason, message = replica.verdict
    figures = replica.gate.measurement if replica.gate else None
    flags = replica.effective_flags
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
        flags_origin=replica.flags_origin,
        flags_outdated="Outdated" if replica.flags_outdated else "Current",
        incident=str(incident)[:MESSAGE_LIMIT] if incident else None,
        incident_verdict=_incident_verdict(replica, live) if incident else None,
        reason=reason,
        message=message[:MESSAGE_LIMIT],
        delivery=delivery_status(replica.gate.delivery) if replica.gate else None,
        decode_tokens_per_second=int(figures.decode_tokens_per_second) if figures else None,
        floor_tokens_per_second=_whole(wanted.decode_tokens_per_second) if wanted else None,
        floor_origin=wanted.floor_origin if wanted else None,
        quarantine=_quarantine(replica, quarantines=quarantines),
        acceptance_percent=_whole(figures.acceptance_percent) if figures else None,
        acceptance_by_position=[int(p) for p in figures.position_percents] or None if figures else None,
        acceptance_length_percent=_hundredths(figures.acceptance_length) if figures else None,
        first_token_millis=_whole(figures.first_token_millis) if figures else None,
        warnings=_warnings(replica),
        prompt_tokens=figures.prompt_tokens if figures else None,
        prefill_tokens_per_second=_whole(figures.prefill_tokens_per_second) if figures else None,
        prompt_first_token_millis=_whole(figures.prompt_first_token_millis) if figures else None,
        depth_decode_tokens_per_second=_whole(figures.depth_decode_tokens_per_second) if figures else None,
        full_depth=_full_depth(replica),
        checked_time=replica.gate.checked_at if replica.gate else None,
        image_digest=replica.image_digest,
    )


def _full_depth(replica: Replica) -> FullDepthStatus | None:
    found = replica.gate.full_depth if replica.gate else None
    if found is None:
        return None
    return FullDepthStatus(
        prompt_tokens=found.prompt_tokens,
        prefill_tokens_per_second=int(found.prefill_tokens_per_second),
        first_token_millis=int(found.first_token_millis),
        decode_tokens_per_second=_whole(found.decode_tokens_per_second),
    )


def _incident_verdict(replica: Replica, live: RawObject) -> Literal["Pending", "Noted"]:
    """Noted is final. The node is labelled before the status with Noted is written (`Reconciler`)."""
    known = [pod for pod in live.get("pods", []) if pod.get("uid") == replica.uid]
    noted = any(pod.get("incidentVerdict") == "Noted" for pod in known)
    return "Noted" if noted or replica.incident_is_confirmed else "Pending"


def _quarantine(replica: Replica, *, quarantines: bool) -> Literal["Granted", "Waiting", "Ordered"] | None:
    if replica.ordered_out:
        return "Ordered"
    if not quarantines or replica.quarantine_request is None:
        return None
    return "Granted" if replica.is_quarantined else "Waiting"


def _warnings(replica: Replica) -> list[str] | None:
    trial = replica.gate.trial if replica.gate else None
    return [f"{warning.reason}: {warning.message}" for warning in trial.warnings] or None if trial else None


def _hundredths(value: float | None) -> int | None:
    return None if value is None else round(100 * value)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
