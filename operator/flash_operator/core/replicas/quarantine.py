"""Decides which slow replicas are taken out of service.

A degraded gate requests quarantine but stays ready until the operator grants it, because it cannot see the other
replicas. A grant is a pod annotation with the request's identifier, so an old grant takes nothing out of service. A
gate that has recovered becomes ready without the operator; the annotation is then removed, which frees its place in
`maxQuarantined`.

    request | other replicas ready | already quarantined | decision
    ------- | -------------------- | ------------------- | -------------------------------------------
    none    | any                  | any                 | an existing grant is withdrawn
    yes     | one or more          | below the limit     | granted
    yes     | one or more          | at the limit        | waits
    yes     | none                 | any                 | waits: a slow replica is better than none
    granted | none                 | any                 | one grant is withdrawn, for the same reason

A user may order a replica out of service. The operator obeys: it never takes that back, not even from the last replica,
and grants such a replica nothing.
"""

from collections.abc import Sequence

from flash_operator.api.v1alpha1 import ServingSpec
from flash_operator.core.replicas.replica import Replica

DEFAULT_MAX_QUARANTINED = 1


def quarantine_changes(replicas: Sequence[Replica], serving: ServingSpec) -> dict[str, str | None]:
    """By pod uid: the request to grant, or None to withdraw a grant."""
    replicas = [replica for replica in replicas if not replica.ordered_out]
    if serving.on_degraded == "Report":
        return {replica.uid: None for replica in replicas if replica.quarantine_grant}
    changes: dict[str, str | None] = {replica.uid: None for replica in replicas if _is_over(replica)}
    quarantined = sum(bool(replica.quarantine_grant) for replica in replicas if replica.uid not in changes)
    in_service = sum(replica.ready and not replica.quarantine_grant for replica in replicas)
    for replica in sorted(replicas, key=_urgency):
        request = replica.quarantine_request
        if request is None or replica.is_quarantined or not replica.ready:
            continue
        if quarantined >= (serving.max_quarantined or DEFAULT_MAX_QUARANTINED) or in_service <= 1:
            break
        changes[replica.uid] = request
        quarantined, in_service = quarantined + 1, in_service - 1
    if in_service == 0:
        changes |= {replica.uid: None for replica in _withdrawable(replicas) if replica.uid not in changes}
    return changes


def _withdrawable(replicas: Sequence[Replica]) -> Sequence[Replica]:
    """A quarantined replica whose gate answers, so that it can serve again at once."""
    quarantined = (replica for replica in replicas if replica.quarantine_grant)
    return [replica for replica in quarantined if replica.gate is not None and replica.gate.reached][:1]


def _is_over(replica: Replica) -> bool:
    """The gate no longer makes the request that was granted. While it does not answer, the grant stays."""
    answered = replica.gate is not None and replica.gate.reached
    return bool(replica.quarantine_grant) and answered and not replica.is_quarantined


def _urgency(replica: Replica) -> tuple[bool, str]:
    """Replicas whose slowness was measured come first: counters of traffic alone may mislead."""
    degraded = replica.gate.serving.degraded if replica.gate else None
    return not (degraded and degraded.measured), replica.name
