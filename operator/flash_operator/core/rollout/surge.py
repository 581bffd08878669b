"""Decides whether a rollout starts the new replica before it stops an old one.

With a surge no replica is missing during a start, but it needs two GPUs that nobody uses:

    the template          | problem with new pods | GPUs for one more | decision
    --------------------- | --------------------- | ----------------- | --------------------------------
    is the live one       | none                  | -                 | unchanged
    is the live one       | they cannot start     | -                 | no surge: one is stopped first
    differs from live     | -                     | yes               | surge: one is started first
    differs from live     | -                     | no                | no surge: one is stopped first
    differs from live     | -                     | not counted       | as in the last rollout

The second row prevents a surge from waiting for itself forever (defilantech/LLMKube#192): the GPUs may have been taken
meanwhile, or a quota, an affinity or a volume may prevent what the GPU count allows. That decision holds for the rest
of the rollout. The last row is for a rollback: GPUs are counted only when the spec changes, so a template that the
operator itself restores is rolled out like the one it replaces.
"""

from collections.abc import Sequence

from flash_contracts.node_facts import NodeFacts
from flash_operator.core.observed.gpu_demand import could_run_on, gets_gpus_by_claim, gpus_of, selects, tolerates
from flash_operator.core.observed.kube import condition_of, is_ready, is_terminating
from flash_operator.core.observed.pod_failure import deployment_failure, failure_of
from flash_operator.core.observed.snapshot import GpuSupply, Observed, RawObject
from flash_operator.core.resources.engine_args import TENSOR_PARALLEL_SIZE
from flash_operator.core.resources.revision import revision_of, revision_of_pod


def surges(observed: Observed, template: RawObject) -> bool:
    """Whether the Deployment gets a surge together with `template`."""
    flash = observed.flash
    live = observed.children.get(("Deployment", flash.name))
    if flash.spec.rollout.surge == "Disabled" or live is None:
        return False
    if revision_of_pod(live["spec"]["template"]) == revision_of(template):
        return _has_surge(live) and not _is_blocked(live, observed.pods)
    if observed.gpu_supply is None:
        return _has_surge(live)
    return replicas_placeable(observed.gpu_supply, template, observed.pods) > flash.spec.replicas


def replicas_placeable(supply: GpuSupply, template: RawObject, own: Sequence[RawObject]) -> int:
    """How many replicas fit, existing ones included, beside the pods of others that hold GPUs or wait for them.

    None by claims: which nodes have the devices for one is in ResourceSlices, which the operator does not read.
    """
    if gets_gpus_by_claim(template["spec"]):
        return 0
    own_uids = {pod["metadata"]["uid"] for pod in own}
    others = [pod for pod in supply.pods if pod["metadata"]["uid"] not in own_uids]
    # Admission may have added tolerations to pods that the template lacks, as it does for extended resources.
    tolerations = [toleration for pod in own for toleration in pod["spec"].get("tolerations") or []]
    spec = {**template["spec"], "tolerations": [*(template["spec"].get("tolerations") or []), *tolerations]}
    return sum(_free_gpus(node, others) // TENSOR_PARALLEL_SIZE for node in supply.nodes if _admits(node, spec))


def _admits(node: RawObject, pod_spec: RawObject) -> bool:
    available = NodeFacts.from_node(node).schedulable and is_ready(node)
    return available and selects(pod_spec, node) and tolerates(pod_spec, node)


def _free_gpus(node: RawObject, others: Sequence[RawObject]) -> int:
    """GPUs left once every waiting pod that may run here does: a cautious estimate."""
    name = node["metadata"]["name"]
    bound = (pod for pod in others if pod["spec"].get("nodeName") == name)
    waiting = (pod for pod in others if not pod["spec"].get("nodeName") and could_run_on(pod, node))
    return NodeFacts.from_node(node).gpus - sum(map(gpus_of, (*bound, *waiting)))


def _has_surge(live: RawObject) -> bool:
    max_surge = live["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxSurge", 0)
    return str(max_surge) not in ("0", "0%")


def _is_blocked(live: RawObject, pods: Sequence[RawObject]) -> bool:
    """A new pod cannot start. While an old one is terminating that does not count: the new one waits for its GPUs."""
    terminating = any(is_terminating(pod) for pod in pods)
    unbound = [pod for pod in pods if not pod["spec"].get("nodeName")]
    unschedulable = not terminating and any(failure_of(pod) for pod in unbound)
    return unschedulable or deployment_failure(live) is not None or _is_overdue(live)


def _is_overdue(live: RawObject) -> bool:
    progressing = condition_of(live, "Progressing")
    return progressing is not None and progressing.get("reason") == "ProgressDeadlineExceeded"
