"""Which replicas may be taken out of service because they got slow.

A gate that finds its engine degraded wishes to be taken out, and stays ready until that is granted: alone it cannot
know whether anybody else is. A grant is an annotation of the pod that names the wish, so that an old one takes out
nobody. A gate that is well again is ready by itself; the annotation is then removed, which gives the place back.

    wishes | ready besides | taken out already | what happens
    ------ | ------------- | ----------------- | ------------
    none   | any           | any               | what was granted is taken back
    one    | one or more   | less than allowed | granted
    one    | one or more   | as many           | waits
    one    | none          | any               | waits: slow is better than nothing
"""

from collections.abc import Sequence

from flash_operator.api.v1alpha1 import ServingSpec
from flash_operator.core.replicas.replica import Replica

DEFAULT_MOST = 1


def quarantine_changes(replicas: Sequence[Replica], serving: ServingSpec) -> dict[str, str | None]:
    """By the uid of a pod: the wish to grant, or None to take back what was granted."""
    if serving.on_degraded == "Report":
        return {replica.uid: None for replica in replicas if replica.granted}
    changes: dict[str, str | None] = {replica.uid: None for replica in replicas if _is_over(replica)}
    taken = sum(bool(replica.granted) for replica in replicas if replica.uid not in changes)
    in_service = sum(replica.ready and not replica.granted for replica in replicas)
    for replica in sorted(replicas, key=_urgency):
        wanted = replica.wish
        if wanted is None or replica.granted == wanted or not replica.ready:
            continue
        if taken >= (serving.max_quarantined or DEFAULT_MOST) or in_service <= 1:
            break
        changes[replica.uid] = wanted
        taken, in_service = taken + 1, in_service - 1
    return changes


def _is_over(replica: Replica) -> bool:
    """What was granted is not wished any more. A gate that does not answer has not said so."""
    answered = replica.gate is not None and replica.gate.reached
    return bool(replica.granted) and answered and replica.granted != replica.wish


def _urgency(replica: Replica) -> tuple[bool, str]:
    """Those that were measured first: traffic alone may mislead."""
    degraded = replica.gate.serving.degraded if replica.gate else None
    return not (degraded and degraded.measured), replica.name
