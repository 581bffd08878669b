"""Which pods hold GPUs of a node, or wait for them."""

from collections.abc import Mapping

from flash_contracts.node_facts import NodeFacts
from flash_operator.core.observed.kube import entries_of, has_ended
from flash_operator.core.observed.raw import RawRequirement, RawTaint, RawToleration, metadata_of, taints_of
from flash_operator.core.observed.snapshot import RawObject

GPU = "nvidia.com/gpu"
KUBERNETES_TAINT = "node.kubernetes.io/"

CLAIMED = 2
"""GPUs that a pod with resource claims counts for. Which devices a claim is for, and how many, is in objects that the
operator does not read. A replica has two; another's pod may have fewer, or none, and is counted cautiously."""


def gpus_of(pod: RawObject) -> int:
    """The GPUs that the scheduler reserves for a pod; 0 once it has ended."""
    if has_ended(pod):
        return 0
    return CLAIMED if gets_gpus_by_claim(pod["spec"]) else _counted(pod["spec"])


def gets_gpus_by_claim(pod_spec: RawObject) -> bool:
    """Whether its GPUs come by dynamic resource allocation (DRA). Beside a number of GPUs, claims are for others."""
    kinds = ("initContainers", "containers")
    claimed = any(claims_of(container) for kind in kinds for container in entries_of(pod_spec, kind))
    return claimed and not _counted(pod_spec)


def claims_of(container: RawObject) -> list[RawObject]:
    return entries_of(container, "resources", "claims")


def _counted(pod_spec: RawObject) -> int:
    at_once = sum(_limit(container) for container in pod_spec.get("containers", []))
    # Init containers run one after the other, before the containers: only the largest counts.
    return max(at_once, *map(_limit, pod_spec.get("initContainers", [])), 0)


def could_run_on(pod: RawObject, node: RawObject) -> bool:
    """Whether a pending pod might be scheduled on this node once GPUs are free.

    A pod that can never run there does not count: it needs more GPUs than the node has, its scheduling is gated, or the
    node's name, labels or taints exclude it. Kubernetes' own taints are ignored, because they are temporary.
    """
    spec = pod["spec"]
    comes_here = selects(spec, node) and all(_is_tolerated(spec, taint) for taint in owners_taints(node))
    return comes_here and not spec.get("schedulingGates") and gpus_of(pod) <= NodeFacts.from_node(node).gpus


def owners_taints(node: RawObject) -> list[RawTaint]:
    """The taints that its administrator set, without those by which Kubernetes reports the node's state."""
    return [taint for taint in taints_of(node) if not taint["key"].startswith(KUBERNETES_TAINT)]


def selects(pod_spec: RawObject, node: RawObject) -> bool:
    """The node has what the pod's nodeSelector and its required node affinity ask for."""
    labels = metadata_of(node).get("labels") or {}
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
    metadata = metadata_of(node)
    labels, names = metadata.get("labels") or {}, {"metadata.name": metadata["name"]}
    return all(_is_met(e, labels) for e in expressions) and all(_is_met(f, names) for f in fields)


def _is_met(expression: RawRequirement, labels: Mapping[str, str]) -> bool:
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
    return all(_is_tolerated(pod_spec, taint) for taint in taints_of(node))


def _is_tolerated(pod_spec: RawObject, taint: RawTaint) -> bool:
    repels = taint.get("effect") in ("NoSchedule", "NoExecute")
    return not repels or any(_matches(toleration, taint) for toleration in pod_spec.get("tolerations") or [])


def _matches(toleration: RawToleration, taint: RawTaint) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    same_key = bool(toleration.get("key") == taint["key"])
    return same_key and bool(toleration.get("value", "") == taint.get("value", ""))


def _limit(container: RawObject) -> int:
    amount = str(container.get("resources", {}).get("limits", {}).get(GPU, "0"))
    return int(amount) if amount.isdigit() else 0
