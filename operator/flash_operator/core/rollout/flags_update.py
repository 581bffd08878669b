"""Takes outdated flags: one replica after the other is replaced, because a new pod gets the flags of its node.

The template stays as it is, so the Deployment controller replaces nothing by itself. Where two GPUs are free, the
successor starts first: the Deployment gets one replica more, and loses it again once that one is ready.

    replicas                                      | the Deployment's replicas | also
    --------------------------------------------- | ------------------------- | ------------------------------------
    as many as wanted, all ready, GPUs for one    | one more                  |
    more                                          |                           |
    as many as wanted, all ready, no GPUs left    | as wanted                 | an outdated one is evicted
    one more, and the newest starts               | one more                  |
    one more, all ready                           | as wanted                 | an outdated one goes first
    one more, and the newest is slower or failed  | as wanted                 | the newest goes first; rejected
    one more, and the newest cannot be scheduled, | as wanted                 | an outdated one is evicted
    or not be created                             |                           |
    as many as wanted, and the newest is slower   | as wanted                 | rejected: the others keep their flags
    any, and one is terminating                   | unchanged                 |

Who goes first is written to the pod (`pod-deletion-cost`) before the Deployment loses a replica. Speeds are compared as
in every rollout (`core.rollout.rollout`). A rejected update is not taken again until the offer changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flash_operator.core.observed.kube import is_terminating
from flash_operator.core.observed.pod_failure import deployment_failure
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.rollout.rollout import LastKnownGood, objection_to
from flash_operator.core.rollout.surge import replicas_placeable


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
    under_way: bool,
    may_surge: bool,
) -> FlagsUpdate:
    """The next step of an update that is taken.

    `under_way`: it was begun in an earlier step. `may_surge`: the operator decides about the Deployment's replicas.
    """
    surging = may_surge and _surges(observed)
    outdated = [replica for replica in replicas if replica.flags_outdated]
    if observed.flash.spec.rollout.state == "Paused":
        return FlagsUpdate(surges=surging)
    if not outdated:
        return NOTHING
    if under_way or surging:
        newest = max(replicas, key=_created)
        objection = _objection(observed, newest, last_known_good)
        if objection:
            return _without(newest, objection) if surging else FlagsUpdate(objection=objection)
    return _next(observed, replicas, outdated[0], template, surging=surging, may_surge=may_surge)


def _next(
    observed: Observed,
    replicas: Sequence[Replica],
    outdated: Replica,
    template: RawObject,
    *,
    surging: bool,
    may_surge: bool,
) -> FlagsUpdate:
    """Nothing speaks against the new flags so far."""
    if any(is_terminating(pod) for pod in observed.pods):
        return FlagsUpdate(surges=surging)
    if surging:
        return _with_successor(observed, replicas, outdated)
    if not _are_ready(replicas, observed.flash.spec.replicas):
        return NOTHING
    return FlagsUpdate(surges=True) if may_surge and _fits(observed, template) else FlagsUpdate(evicted=outdated)


def _with_successor(observed: Observed, replicas: Sequence[Replica], outdated: Replica) -> FlagsUpdate:
    """There is one replica more, or there will be."""
    if any(replica.stuck for replica in replicas) or deployment_failure(_deployment(observed)):
        return FlagsUpdate(evicted=outdated)
    if not _are_ready(replicas, observed.flash.spec.replicas + 1):
        return FlagsUpdate(surges=True)
    return FlagsUpdate(surges=not outdated.goes_first, stopped_first=outdated)


def _without(newest: Replica, objection: str) -> FlagsUpdate:
    if not newest.goes_first:
        return FlagsUpdate(surges=True, stopped_first=newest)
    return FlagsUpdate(stopped_first=newest, objection=objection)


def _objection(observed: Observed, newest: Replica, last_known_good: LastKnownGood | None) -> str | None:
    if newest.flags_outdated or last_known_good is None:
        return None
    limit = observed.flash.spec.rollout.max_slowdown_percent
    found = objection_to(newest, last_known_good, limit, made_with="the new flags of its node")
    return f"{found}; the other replicas keep their flags" if found else None


def _fits(observed: Observed, template: RawObject) -> bool:
    flash, supply = observed.flash, observed.gpu_supply
    if flash.spec.rollout.surge == "Disabled" or supply is None:
        return False
    return replicas_placeable(supply, template, observed.pods) > flash.spec.replicas


def _surges(observed: Observed) -> bool:
    return bool(_deployment(observed).get("spec", {}).get("replicas") == observed.flash.spec.replicas + 1)


def _deployment(observed: Observed) -> RawObject:
    return observed.children.get(("Deployment", observed.flash.name)) or {}


def _are_ready(replicas: Sequence[Replica], count: int) -> bool:
    """Ready, and with figures to judge them by: the kubelet may report a replica ready before its gate was asked."""
    measured = [replica for replica in replicas if replica.ready and replica.gate and replica.gate.measurement]
    return len(replicas) == len(measured) == count


def _created(replica: Replica) -> tuple[str, str]:
    return str(replica.pod["metadata"].get("creationTimestamp", "")), replica.name
