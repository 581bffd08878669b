"""Which pods hold GPUs of a node, or wait for them."""

from flash_operator.core.observed.kube import has_ended
from flash_operator.core.observed.snapshot import RawObject

GPU = "nvidia.com/gpu"


def gpus_of(pod: RawObject) -> int:
    """The GPUs that the scheduler reserves for a pod; 0 once it has ended."""
    if has_ended(pod):
        return 0
    spec = pod["spec"]
    at_once = sum(_limit(container) for container in spec.get("containers", []))
    # Init containers run one after the other, before the containers: only the largest counts.
    return max(at_once, *map(_limit, spec.get("initContainers", [])), 0)


def selects(pod_spec: RawObject, node: RawObject) -> bool:
    """The node has every label of the pod's nodeSelector. Affinity is left to the scheduler."""
    labels = node["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in (pod_spec.get("nodeSelector") or {}).items())


def tolerates(pod_spec: RawObject, node: RawObject) -> bool:
    """The pod tolerates every taint of the node that would keep it from being scheduled or running there."""
    taints = node.get("spec", {}).get("taints") or []
    repelling = (taint for taint in taints if taint.get("effect") in ("NoSchedule", "NoExecute"))
    tolerations = pod_spec.get("tolerations") or []
    return all(any(_matches(toleration, taint) for toleration in tolerations) for taint in repelling)


def _matches(toleration: RawObject, taint: RawObject) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    same_key = bool(toleration.get("key") == taint["key"])
    return same_key and bool(toleration.get("value", "") == taint.get("value", ""))


def _limit(container: RawObject) -> int:
    amount = str(container.get("resources", {}).get("limits", {}).get(GPU, "0"))
    return int(amount) if amount.isdigit() else 0
