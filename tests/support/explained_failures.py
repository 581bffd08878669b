"""What `kubectl dsf explain` says about failures, from the operator's own plan: docs/explain.md, and a test of it.

`python tests/support/explained_failures.py > docs/explain.md` writes the page.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from rich.console import Console

from builders import (
    NOON,
    SETTINGS,
    a_flash_object,
    a_gate,
    a_live_deployment,
    a_node,
    a_pod,
    a_waiting_pod,
    an_observed,
    an_unschedulable_pod,
)
from flash_contracts.flags import derive
from flash_contracts.flags.interconnect import DefaultInterconnect
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION
from flash_contracts.node_facts import NodeFacts
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import plan
from flashctl.explain.explanation import Explanation, explain
from flashctl.explain.facts import Facts
from flashctl.explain.screen import screen

WIDTH = 110
LATER = NOON + timedelta(minutes=12)
VERIFIED = a_node(gpu_link="phb", gpu_p2p="verified")
GRANTED = a_node(gpu_link="phb", gpu_p2p="granted")
UPGRADED = replace(SETTINGS, engine_image="registry.example/flash/engine:2")
LEASE = {
    "metadata": {"name": "flash-operator", "namespace": "flash-system"},
    "spec": {"holderIdentity": "flash-operator-7c9f-x2k4p", "renewTime": LATER.isoformat()},
}
OLD_LEASE = {**LEASE, "spec": {**LEASE["spec"], "renewTime": NOON.isoformat()}}


def one_pod(gate: Any, *, ready: bool = False, node: RawObject = VERIFIED, restarts: int = 0, **spec: Any) -> Facts:
    """A deployment of one replica on a node, whose gate says this."""
    flash = FlashDeployment.from_object(a_flash_object(**spec))
    pod = a_pod(ready=ready)
    pod["status"]["containerStatuses"] = [{"name": "engine", "restartCount": restarts, "state": {"running": {}}}]
    flags = derive(NodeFacts.from_node(node), DefaultInterconnect(), {})
    pod["metadata"]["annotations"][ENGINE_FLAGS_ANNOTATION] = flags.to_text()
    observed = an_observed(
        flash, pods=(pod,), nodes=(node,), gates={"flash-a": gate}, children=(a_live_deployment(flash),)
    )
    return facts_of(observed, a_flash_object(**spec))


def pods_only(*pods: RawObject, **spec: Any) -> Facts:
    return facts_of(an_observed(FlashDeployment.from_object(a_flash_object(**spec)), pods=pods), a_flash_object(**spec))


def facts_of(observed: Observed, raw: RawObject, **extra: Any) -> Facts:
    """What the API server would have after the operator's next reconcile, and twelve minutes."""
    status = plan(observed).status or observed.live_status
    flash = {**raw, "status": status}
    nodes = tuple(observed.nodes.values())
    return Facts(flash=flash, now=LATER, pods=observed.pods, nodes=nodes, **{"leases": (LEASE,), **extra})


def a_serving_observed(settings: Any = SETTINGS, live_status: RawObject | None = None) -> Observed:
    flash = FlashDeployment.from_object(a_flash_object())
    return an_observed(
        flash,
        pods=(a_pod(ready=True),),
        nodes=(VERIFIED,),
        gates={"flash-a": a_gate()},
        children=(a_live_deployment(flash),),
        live_status=live_status,
        settings=settings,
    )


def update_waiting() -> Facts:
    before = a_serving_observed()
    first = plan(before)
    children = {**before.children, **{(one["kind"], one["metadata"]["name"]): one for one in first.apply}}
    settled = replace(before, children=children, live_status=first.status or {})
    deployment = next(child for (kind, _), child in settled.children.items() if kind == "Deployment")
    deployment = {**deployment, "metadata": {**deployment["metadata"], "generation": 1}}
    deployment["status"] = {"observedGeneration": 1, "updatedReplicas": 1}
    settled.children[("Deployment", "flash")] = deployment
    return facts_of(replace(settled, settings=UPGRADED), a_flash_object())


def operator_down() -> Facts:
    broken = one_pod(a_gate("DraftDead", "0 of 388 drafted tokens accepted"), restarts=1)
    event = {
        "type": "Warning",
        "reason": "BackOff",
        "note": "Back-off restarting failed container engine in pod flash-a",
        "regarding": {"kind": "Pod", "name": "flash-a"},
        "deprecatedLastTimestamp": LATER.isoformat(),
    }
    return replace(broken, leases=(OLD_LEASE,), events=(event,))


NO_GPUS = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available."
NO_CLAIM = '0/3 nodes are available: persistentvolumeclaim "models" not found.'
NO_IMAGE = 'Back-off pulling image "registry.example/flash/engine:typo": not found'
EXITED = "exit code 1: vllm: error: unrecognized arguments: --no-such-thing; remove it from engine.extraArgs"
QUOTA = 'HTTP 403: pods "flash" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=2, used: 8'
TAKEN = "Service team/flash exists and belongs to another owner: delete or rename it, or rename this deployment"


def failures() -> Mapping[str, Facts]:
    """Facts by the failure's title, in the order of the page."""
    return {
        "No node has two free GPUs": pods_only(an_unschedulable_pod(message=NO_GPUS)),
        "The image cannot be pulled": pods_only(a_waiting_pod("ImagePullBackOff", NO_IMAGE)),
        "The claim does not exist": pods_only(an_unschedulable_pod(message=NO_CLAIM)),
        "The draft is dead": one_pod(
            a_gate(
                "DraftDead",
                "0 of 388 drafted tokens accepted: the head's weights are zero",
                measurement={"decodeTokensPerSecond": 44.0, "acceptancePercent": 0.0, "firstTokenMillis": 160.0},
            )
        ),
        "Too slow": one_pod(
            a_gate(
                "TooSlow",
                "decode 41.0 tok/s, wanted at least 60",
                measurement={"decodeTokensPerSecond": 41.0, "acceptancePercent": 91.0, "firstTokenMillis": 160.0},
            ),
            node=GRANTED,
        ),
        "The engine exited": one_pod(a_gate("EngineExited", EXITED), restarts=4),
        "The checkpoint is rejected": one_pod(
            a_gate(
                "ModelRejected",
                "mtp.0.attn.wq_a.weight is missing: speculation.method Mtp cannot draft without it",
                measurement=None,
            )
        ),
        "The engine hangs": one_pod(
            a_gate(
                "StartupHang", "healthy, and no token for 90 s although no other request runs (S4)", measurement=None
            ),
            restarts=2,
        ),
        "A name is taken": facts_of(replace(an_observed(), name_taken=TAKEN), a_flash_object()),
        "A child is refused": facts_of(replace(an_observed(), refusal=QUOTA), a_flash_object()),
        "An update waits": update_waiting(),
        "The operator is down": operator_down(),
    }


def explanations() -> dict[str, Explanation]:
    return {title: explain(facts) for title, facts in failures().items()}


def rendered(found: Explanation, width: int = WIDTH) -> str:
    """The screen as a terminal without colours shows it."""
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False, highlight=False, color_system=None)
    console.print(screen(found, LATER))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


HEAD = """# What `kubectl dsf explain` says

Generated by `make generate` from the operator's own decisions about twelve failures; a test checks that each text is
what the command prints. The command is described in [kubectl-dsf.md](kubectl-dsf.md), and the terms are in the
[glossary](glossary.md).
"""


def page() -> str:
    shown = (f"## {title}\n\n```\n{rendered(found)}\n```\n" for title, found in explanations().items())
    return "\n".join([HEAD, *shown])


if __name__ == "__main__":
    print(page(), end="")
