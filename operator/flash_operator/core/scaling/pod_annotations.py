"""Annotations of pods that autoscalers read: which replica goes first, and which one must be left alone.

    annotation                                          | on                      | why
    --------------------------------------------------- | ----------------------- | ------------------------------------
    controller.kubernetes.io/pod-deletion-cost          | replicas of a           | scaling in stops quarantined and
                                                        | deployment with scaling | failed replicas first, then outdated
                                                        |                         | ones, then the youngest
                                                        | the replica to replace  | an update of flags stops it, and no
                                                        | (`rollout.flags_update`)| other, once its successor is ready
    karpenter.sh/do-not-disrupt                         | a replica that loads on | a moved replica loads from the start
                                                        | a node of Karpenter's   |
    cluster-autoscaler.kubernetes.io/                   | every new replica       | our volumes on the node's disk have
    safe-to-evict-local-volumes                         |                         | what can be made or fetched again

They are written to pods and not to the template, so that they restart no engine. One that the user has set stays.
"""

from flash_operator.core.observed.kube import condition_of, moment_of
from flash_operator.core.observed.snapshot import Observed
from flash_operator.core.replicas.replica import DELETION_COST, FIRST_TO_STOP, Replica
from flash_operator.core.resources.gate_config import startup_seconds
from flash_operator.core.resources.revision import revision_of_pod
from flash_operator.core.rollout.flags_update import FlagsUpdate
from flash_operator.core.scaling.demand import is_loading

DO_NOT_DISRUPT = "karpenter.sh/do-not-disrupt"
KARPENTER_NODE = "karpenter.sh/nodepool"
"""A label of every node that Karpenter 1.0 or later manages. Older ones do not understand a duration."""
LOCAL_VOLUMES = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"

OUR_VOLUMES = ("run", "cache", "tmp", "shm", "model")
LOCAL = ("emptyDir", "hostPath")
"""What cluster-autoscaler takes for local storage, for the sake of which it leaves a node alone."""

OUTDATED = -1_000_000_000
NEEDED = 0
"""A ready replica costs minus the minutes since 1970 when it became ready, which stays as it is."""

Annotations = dict[str, str | None]


def scaling_annotations(
    replica: Replica, observed: Observed, others: int, revision: str, flags_update: FlagsUpdate
) -> Annotations:
    """What to change. `others` is the number of other replicas, `revision` that of the template in force."""
    live = (replica.pod["metadata"].get("annotations") or {}).get(DELETION_COST)
    cost = _cost(replica, observed, others, revision, flags_update, live)
    return _protection(replica, observed) | ({} if cost == live else {DELETION_COST: cost})


def _protection(replica: Replica, observed: Observed) -> Annotations:
    """Written together with the flags of a new pod, so that it costs no request of its own."""
    live = replica.pod["metadata"].get("annotations") or {}
    budget = f"{startup_seconds(observed.flash.spec)}s"
    if replica.ready:
        return {DO_NOT_DISRUPT: None} if live.get(DO_NOT_DISRUPT) == budget and not _is_users(observed) else {}
    if not replica.needs_flags:
        return {}
    volumes = replica.pod["spec"].get("volumes") or []
    local = (volume["name"] for volume in volumes if any(kind in volume for kind in LOCAL))
    names = [name for name in local if name in OUR_VOLUMES]
    wanted: Annotations = {LOCAL_VOLUMES: ",".join(names)} if names else {}
    if _is_of_karpenter(replica, observed):
        wanted[DO_NOT_DISRUPT] = budget
    return {key: value for key, value in wanted.items() if key not in live}


def _is_of_karpenter(replica: Replica, observed: Observed) -> bool:
    """Elsewhere nothing reads the annotation, and removing it later would cost a request."""
    node = observed.nodes.get(replica.node_name or "") or {"metadata": {}}
    return KARPENTER_NODE in (node["metadata"].get("labels") or {})


def _is_users(observed: Observed) -> bool:
    return DO_NOT_DISRUPT in observed.flash.spec.pod_metadata.annotations


def _cost(
    replica: Replica, observed: Observed, others: int, revision: str, flags_update: FlagsUpdate, live: str | None
) -> str | None:
    """The ReplicaSet controller stops replicas that are not ready before all others, whatever they cost. So a loading
    one that is needed is kept by the target of `demand`, which asks for no fewer replicas while one loads.

    The cost of a replica that an update of flags is about to stop stays until it has gone.
    """
    first = flags_update.stopped_first
    if first is not None and first.uid == replica.uid:
        return str(FIRST_TO_STOP)
    if replica.goes_first and others >= observed.flash.spec.replicas and not flags_update.surges:
        return live
    if observed.flash.spec.scaling is None or others == 0:
        return None if replica.goes_first else live
    return str(deletion_cost(replica, observed, revision))


def deletion_cost(replica: Replica, observed: Observed, revision: str) -> int:
    """The lowest one is stopped first."""
    if is_loading(replica, observed):
        return NEEDED
    if replica.leaves_service or not replica.ready:
        return FIRST_TO_STOP
    outdated = replica.flags_outdated or revision_of_pod(replica.pod) not in (None, revision)
    return (OUTDATED if outdated else 0) - _minutes_when_ready(replica)


def _minutes_when_ready(replica: Replica) -> int:
    since = (condition_of(replica.pod, "Ready") or {}).get("lastTransitionTime")
    try:
        return int(moment_of(since or replica.pod["metadata"]["creationTimestamp"]).timestamp() // 60)
    except (KeyError, TypeError, ValueError):
        return 0
