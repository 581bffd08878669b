"""Takes outdated flags: one replica after the other is replaced, because a new pod gets the flags of its node.

The template stays as it is, so the Deployment controller replaces nothing by itself. Where two GPUs are free, the
successor starts first: the Deployment gets one replica more, and loses it again once that one is ready.

    replicas                                      | the Deployment's replicas | also
    --------------------------------------------- | ------------------------- | ------------------------------------
    any, and the status does not say Updating yet | as wanted                 | status says it
    any, and one is terminating                   | unchanged                 |
    as many as wanted, all others ready, and the  | as wanted                 | it is evicted
    outdated one is not                           |                           |
    as many as wanted, all ready, GPUs for one    | one more                  |
    more                                          |                           |
    as many as wanted, all ready, no GPUs left    | as wanted                 | an outdated one is evicted
    one more, and the newest starts               | one more                  |
    one more, all but an outdated one ready       | as wanted                 | that one goes first
    one more, and a new one is slower or failed   | as wanted                 | it goes first; rejected
    one more, all others ready, and the newest    | as wanted                 | an outdated one is evicted
    cannot be scheduled, or not be created        |                           |
    one more, and the newest has not started for  | as wanted                 | it goes first; rejected
    `STUCK`                                       |                           |
    as many as wanted, and a new one is slower    | as wanted                 | rejected: the others keep their flags
    one more, and the update is taken no longer   | as wanted                 | an outdated one goes first

Who goes first is written to the pod (`pod-deletion-cost`) before the Deployment loses a replica. That there is one more
is an annotation of the Deployment, with the number that it is one more than: a change of spec.replicas ends it. Speeds
are compared as in every rollout (`core.rollout.rollout`). The same flags are not taken again after a rejection, until
what a rejection depends on is changed in the spec.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from flash_operator.core.observed.kube import is_terminating, moment_of
from flash_operator.core.observed.pod_failure import deployment_failure
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.deployment import SUCCESSOR_ANNOTATION
from flash_operator.core.rollout.rollout import LastKnownGood, objection_to
from flash_operator.core.rollout.surge import replicas_placeable

UNSCHEDULED = timedelta(minutes=1)
"""How long the scheduler may find no place for a successor, although two GPUs seem to be free."""

STUCK = timedelta(minutes=10)
"""How long a successor that is on a node may be without its image, its volumes or its network."""


@dataclass(frozen=True)
class FlagsUpdate:
    """What to do now about replicas with outdated flags."""

    surges: bool = False
    """The Deployment has one replica more than the spec asks for."""
    evicted: Replica | None = None
    stopped_first: Replica | None = None
    """The replica that must be stopped when the Deployment loses one."""
    objection: str | None = None
    """Why the update is rejected."""


NOTHING = FlagsUpdate()


def take_flags(
    observed: Observed,
    replicas: Sequence[Replica],
    last_known_good: LastKnownGood | None,
    template: RawObject,
    *,
    may_surge: bool,
) -> FlagsUpdate:
    """The next step of an update that is taken, and that the status says is taken.

    `may_surge`: the operator decides about the Deployment's replicas.
    """
    surging = may_surge and has_successor(observed)
    if observed.flash.spec.rollout.state == "Paused":
        return FlagsUpdate(surges=surging)
    outdated = _next_outdated(replicas)
    if outdated is None:
        return NOTHING
    for replica in _successors(replicas):
        objection = _objection(observed, replica, last_known_good)
        if objection:
            return _without(replica, objection) if surging else FlagsUpdate(objection=objection)
    if any(is_terminating(pod) for pod in observed.pods):
        return FlagsUpdate(surges=surging)
    if surging:
        return _with_successor(observed, replicas, outdated)
    return _begin(observed, replicas, outdated, template, may_surge=may_surge)


def end_surge(observed: Observed, replicas: Sequence[Replica]) -> FlagsUpdate:
    """The update is taken no longer, and there may still be one replica more."""
    outdated = _next_outdated(replicas)
    if outdated is None or not has_successor(observed) or not _others_are_ready(observed, replicas, outdated):
        return NOTHING
    return _stopping(outdated)


def has_successor(observed: Observed) -> bool:
    """The Deployment has one replica more than the spec asks for, by an update of flags."""
    annotations = _deployment(observed).get("metadata", {}).get("annotations") or {}
    return bool(annotations.get(SUCCESSOR_ANNOTATION) == str(observed.flash.spec.replicas))


def _begin(
    observed: Observed, replicas: Sequence[Replica], outdated: Replica, template: RawObject, *, may_surge: bool
) -> FlagsUpdate:
    wanted = observed.flash.spec.replicas
    if len(replicas) != wanted or not _others_are_ready(observed, replicas, outdated):
        return NOTHING
    surges = outdated.ready and may_surge and _fits(observed, template)
    return FlagsUpdate(surges=True) if surges else FlagsUpdate(evicted=outdated)


def _with_successor(observed: Observed, replicas: Sequence[Replica], outdated: Replica) -> FlagsUpdate:
    """There is one replica more, or there will be."""
    newest = max(replicas, key=_created)
    if deployment_failure(_deployment(observed)) and _others_are_ready(observed, replicas, outdated):
        return FlagsUpdate(evicted=outdated)
    if newest.stuck and not newest.flags_outdated:
        return _with_stuck(observed, replicas, outdated, newest)
    if len(replicas) <= observed.flash.spec.replicas or not _others_are_ready(observed, replicas, outdated):
        return FlagsUpdate(surges=True)
    return _stopping(outdated)


def _with_stuck(observed: Observed, replicas: Sequence[Replica], outdated: Replica, newest: Replica) -> FlagsUpdate:
    age = _age(observed, newest)
    serving = [replica for replica in replicas if replica is not newest]
    if newest.node_name is None:
        evicts = age > UNSCHEDULED and _others_are_ready(observed, serving, outdated)
        return FlagsUpdate(evicted=outdated) if evicts else FlagsUpdate(surges=True)
    if age <= STUCK:
        return FlagsUpdate(surges=True)
    return _without(newest, f"{newest.name} does not start: {newest.verdict.reason}: {newest.verdict.message}")


def _stopping(outdated: Replica) -> FlagsUpdate:
    """The Deployment loses a replica only once this one is marked."""
    return FlagsUpdate(surges=not outdated.goes_first, stopped_first=outdated)


def _without(replica: Replica, objection: str) -> FlagsUpdate:
    if not replica.goes_first:
        return FlagsUpdate(surges=True, stopped_first=replica)
    return FlagsUpdate(stopped_first=replica, objection=objection)


def _objection(observed: Observed, successor: Replica, last_known_good: LastKnownGood | None) -> str | None:
    limit, made_with = observed.flash.spec.rollout.max_slowdown_percent, "the new flags of its node"
    found = objection_to(successor, last_known_good, limit, made_with, spares_nodes=False)
    return f"{found}; the other replicas keep their flags" if found else None


def _next_outdated(replicas: Sequence[Replica]) -> Replica | None:
    """One that does not serve comes first: nothing is lost with it, and other flags may be its cure."""
    outdated = [replica for replica in replicas if replica.flags_outdated]
    return min(outdated, key=lambda replica: (replica.ready, replica.name), default=None)


def _successors(replicas: Sequence[Replica]) -> list[Replica]:
    """The replicas that have been started since an outdated one."""
    oldest = min(_created(replica) for replica in replicas if replica.flags_outdated)
    return [replica for replica in replicas if not replica.flags_outdated and _created(replica) > oldest]


def _fits(observed: Observed, template: RawObject) -> bool:
    flash, supply = observed.flash, observed.gpu_supply
    if flash.spec.rollout.surge == "Disabled" or supply is None:
        return False
    return replicas_placeable(supply, template, observed.pods) > flash.spec.replicas


def _deployment(observed: Observed) -> RawObject:
    return observed.children.get(("Deployment", observed.flash.name)) or {}


def _others_are_ready(observed: Observed, replicas: Sequence[Replica], replaced: Replica) -> bool:
    """All but the replaced one serve, with figures to judge them by, and there are enough of them.

    The kubelet may report a replica ready before its gate was asked.
    """
    others = [replica for replica in replicas if replica is not replaced]
    measured = [one for one in others if one.ready and one.gate and one.gate.reached and one.gate.measurement]
    return len(measured) == len(others) >= observed.flash.spec.replicas - 1


def _created(replica: Replica) -> tuple[str, str]:
    return str(replica.pod["metadata"]["creationTimestamp"]), replica.name


def _age(observed: Observed, replica: Replica) -> timedelta:
    return observed.now - moment_of(replica.pod["metadata"]["creationTimestamp"])
