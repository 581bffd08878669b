"""Deployments with the status that the operator writes in each situation, for whoever has to tell them apart."""

from typing import Any

from builders import (
    a_flash,
    a_flash_object,
    a_gate,
    a_live_deployment,
    a_node,
    a_pod,
    an_observed,
    an_unschedulable_pod,
)
from flash_contracts.gate_result import GateResult
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import plan

NODE = a_node(gpu_link="phb", gpu_p2p="verified")
UNREADY = a_gate("EngineStarting", "loading")


def situation(*gates: GateResult, ready: bool = False, **spec: Any) -> RawObject:
    """A deployment of one replica, or of none, with its status."""
    flash = a_flash(**spec)
    wanted = spec.get("replicas", 1)
    observed = an_observed(
        flash,
        pods=tuple(a_pod(f"flash-{n}", ready=ready) for n in range(wanted)),
        nodes=(NODE,),
        gates={f"flash-{n}": gate for n, gate in enumerate(gates)},
        children=(a_live_deployment(flash),),
    )
    return _with_status(spec, plan(observed).status)


def unschedulable() -> RawObject:
    flash = a_flash()
    observed = an_observed(flash, pods=(an_unschedulable_pod(),), children=(a_live_deployment(flash),))
    return _with_status({}, plan(observed).status)


def pods_refused() -> RawObject:
    """The Deployment may create no pods, because of a quota."""
    flash = a_flash()
    live = a_live_deployment(flash)
    forbidden = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    live["status"]["conditions"] = [forbidden]
    return _with_status({}, plan(an_observed(flash, children=(live,))).status)


def unseen() -> RawObject:
    """The spec was changed, and the operator has not looked yet."""
    seen = situation(a_gate(), ready=True)
    seen["metadata"]["generation"] = 2
    return seen


def _with_status(spec: dict[str, Any], status: RawObject | None) -> RawObject:
    assert status is not None
    return {**a_flash_object(**spec), "status": status}


def all_situations() -> dict[str, RawObject]:
    """Every situation by its name."""
    waiting = situation(UNREADY)
    return {
        "it serves": situation(a_gate(), ready=True),
        "one of two is degraded and serves": situation(
            a_gate(), a_gate("Degraded", "41 tok/s"), ready=True, replicas=2
        ),
        "it loads": waiting,
        "it is slow": situation(a_gate("TooSlow", "41 tok/s, wanted 60")),
        "its drafts are dead": situation(a_gate("DraftDead", "0 % accepted")),
        "no node has free GPUs": unschedulable(),
        "a quota refuses its pods": pods_refused(),
        "a person set no replicas": situation(replicas=0),
        "an autoscaler set no replicas": situation(
            replicas=0, scaling={"minReplicas": 0, "maxReplicas": 2, "idle": {"afterSeconds": 600}}
        ),
        "its rollout is paused": _paused(),
        "the operator has not seen its spec": unseen(),
        "it has no status": {**a_flash_object(), "status": {}},
    }


def _paused() -> RawObject:
    """Paused in the middle of a rollout: the only pod is of the old template."""
    spec: dict[str, Any] = {"rollout": {"state": "Paused"}}
    flash = a_flash(**spec)
    live = a_live_deployment(flash, updated=0)
    observed = an_observed(
        flash, pods=(a_pod(ready=True),), nodes=(NODE,), gates={"flash-a": a_gate()}, children=(live,)
    )
    return _with_status(spec, plan(observed).status)
