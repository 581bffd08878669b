"""Whether a rollout brings the next replica before it takes one away.

That costs no replica for the time of a start, and needs two GPUs that nobody uses:

    the template             | trouble with new pods | GPUs for one more     | the rollout
    ------------------------ | --------------------- | --------------------- | -----------------------
    is the one that is live  | none                  | -                     | goes on as it began
    is the one that is live  | they find no place    | -                     | takes one away first
    is another one           | -                     | yes                   | brings one first
    is another one           | -                     | no                    | takes one away first
    is another one           | -                     | nobody looked         | as the last one

The second row is what keeps a surge from waiting for ever for itself (defilantech/LLMKube#192): the GPUs may be taken
meanwhile, or a quota, an affinity or a volume may forbid what the count of GPUs allows. It is not undone while that
rollout lasts. As nobody looks for a template that the operator itself puts in force, the last row follows the rollout
that it takes back.
"""

from collections.abc import Iterable, Sequence

from flash_contracts.node_facts import NodeFacts
from flash_operator.core.observed.gpu_demand import gpus_of, selects, tolerates
from flash_operator.core.observed.pod_failure import deployment_failure, failure_of
from flash_operator.core.observed.snapshot import GpuSupply, Observed, RawObject, is_ready
from flash_operator.core.resources.engine_args import TENSOR_PARALLEL_SIZE
from flash_operator.core.resources.revision import revision_of, revision_of_pod


def surges(observed: Observed, template: RawObject) -> bool:
    """See the module. `template` is the one in force."""
    flash = observed.flash
    live = observed.children.get(("Deployment", flash.name))
    if flash.spec.rollout.surge == "Disabled" or live is None:
        return False
    if revision_of_pod(live["spec"]["template"]) == revision_of(template):
        return _surging(live) and not _finds_no_place(live, observed.pods)
    if observed.gpu_supply is None:
        return _surging(live)
    return replicas_placeable(observed.gpu_supply, template, observed.pods) > flash.spec.replicas


def replicas_placeable(supply: GpuSupply, template: RawObject, own: Sequence[RawObject]) -> int:
    """How many replicas fit beside what others hold or wait for, those that exist included."""
    ours = {pod["metadata"]["uid"] for pod in own}
    others = [pod for pod in supply.pods if pod["metadata"]["uid"] not in ours]
    # Admission may have added tolerations to pods that the template lacks, as it does for extended resources.
    tolerations = [toleration for pod in own for toleration in pod["spec"].get("tolerations") or []]
    spec = {**template["spec"], "tolerations": [*(template["spec"].get("tolerations") or []), *tolerations]}
    return sum(_room(node, others) // TENSOR_PARALLEL_SIZE for node in supply.nodes if _takes(node, spec))


def _takes(node: RawObject, pod_spec: RawObject) -> bool:
    admits = NodeFacts.from_node(node).schedulable and is_ready(node)
    return admits and selects(pod_spec, node) and tolerates(pod_spec, node)


def _room(node: RawObject, others: Sequence[RawObject]) -> int:
    """GPUs that are left once every pod that waits, and may come here, has come here: rather one too few."""
    name = node["metadata"]["name"]
    bound = (pod for pod in others if pod["spec"].get("nodeName") == name)
    waiting = (pod for pod in others if not pod["spec"].get("nodeName") and selects(pod["spec"], node))
    return NodeFacts.from_node(node).gpus - sum(map(gpus_of, (*bound, *waiting)))


def _surging(live: RawObject) -> bool:
    wanted = live["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxSurge", 0)
    return str(wanted) not in ("0", "0%")


def _finds_no_place(live: RawObject, pods: Sequence[RawObject]) -> bool:
    """Not yet, where one of ours is still on its way out: the next one waits for its GPUs while it drains."""
    leaving = any(pod["metadata"].get("deletionTimestamp") for pod in pods)
    unbound = [pod for pod in pods if not pod["spec"].get("nodeName")]
    homeless = not leaving and any(failure_of(pod) for pod in unbound)
    return homeless or deployment_failure(live) is not None or _is_overdue(live)


def _is_overdue(live: RawObject) -> bool:
    conditions: Iterable[RawObject] = live.get("status", {}).get("conditions") or []
    return any(c.get("type") == "Progressing" and c.get("reason") == "ProgressDeadlineExceeded" for c in conditions)
