"""Which pods hold GPUs of a node, or wait for them."""

from collections.abc import Mapping

from flash_contracts.node_facts import NodeFacts
from flash_operator.core.observed.kube import has_ended
from flash_operator.core.observed.snapshot import RawObject

GPU = "nvidia.com/gpu"
KUBERNETES_TAINT = "node.kubernetes.io/"


def gpus_of(pod: RawObject) -> int:
    """The GPUs that the scheduler reserves for a pod; 0 once it has ended."""
    if has_ended(pod):
        return 0
    spec = pod["spec"]
    at_once = sum(_limit(container) for container in spec.get("containers", []))
    # Init containers run one after the other, before the containers: only the largest counts.
    return max(at_once, *map(_limit, spec.get("initContainers", [])), 0)


def could_run_on(pod: RawObject, node: RawObject) -> bool:
    """Whether a pending pod might be scheduled on this node once GPUs are free.

    One that never will is no demand: it needs more GPUs than the node has, its scheduling is gated, or the node has the
    wrong name, labels or taints for it. Kubernetes' own taints do not count: they go, and then the pod comes.
    """
    spec = pod["spec"]
    comes_here = selects(spec, node) and all(_is_tolerated(spec, taint) for taint in owners_taints(node))
    return comes_here and not spec.get("schedulingGates") and gpus_of(pod) <= NodeFacts.from_node(node).gpus


def owners_taints(node: RawObject) -> list[RawObject]:
    """The taints that its owner keeps the node with, without those by which Kubernetes reports its state."""
    taints = node.get("spec", {}).get("taints") or []
    return [taint for taint in taints if not taint["key"].startswith(KUBERNETES_TAINT)]


def selects(pod_spec: RawObject, node: RawObject) -> bool:
    """The node has what the pod's nodeSelector and its required node affinity ask for."""
    labels = node["metadata"].get("labels") or {}
    selected = all(labels.get(key) == value for key, value in (pod_spec.get("nodeSelector") or {}).items())
    affinity = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    terms = (required or {}).get("nodeSelectorTerms") or []
    return selected and (required is None or any(_term_matches(term, node) for term in terms))


def _term_matches(term: RawObject, node: RawObject) -> bool:
    """An empty term matches no node (k8s.io/component-helpers, scheduling/corev1/nodeaffinity)."""
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    labels, names = node["metadata"].get("labels") or {}, {"metadata.name": node["metadata"]["name"]}
    return all(_holds(e, labels) for e in expressions) and all(_holds(f, names) for f in fields)


def _holds(expression: RawObject, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            return _compares(value, values, greater=operator == "Gt")
    return True  # an operator of a newer Kubernetes: the scheduler knows it


def _compares(value: str | None, values: list[str], *, greater: bool) -> bool:
    try:
        mine, other = int(value or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return mine > other if greater else mine < other


def tolerates(pod_spec: RawObject, node: RawObject) -> bool:
    """The pod tolerates every taint of the node that would keep it from being scheduled or running there."""
    return all(_is_tolerated(pod_spec, taint) for taint in node.get("spec", {}).get("taints") or [])


def _is_tolerated(pod_spec: RawObject, taint: RawObject) -> bool:
    repels = taint.get("effect") in ("NoSchedule", "NoExecute")
    return not repels or any(_matches(toleration, taint) for toleration in pod_spec.get("tolerations") or [])


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
