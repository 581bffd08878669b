"""Builders of observed objects: a test passes only the values that matter to it, and the builder fills in the rest.

They return raw objects as the API server does, so that tests go through the same parsing as the operator.
"""

from datetime import UTC, datetime
from typing import Any

from flash_contracts.gate_result import GateResult, RequestLoad
from flash_contracts.names import API_VERSION, KIND
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.known_load import KnownLoad
from flash_operator.core.observed.scalers import Scalers
from flash_operator.core.observed.snapshot import Observed, PlanSettings, RawObject
from flash_operator.core.plan import desired_children

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
SETTINGS = PlanSettings(
    engine_image="registry.example/flash/engine:1", quantiser_image="registry.example/flash/quantiser:1"
)


def a_flash_object(name: str = "flash", *, generation: int = 1, **spec: Any) -> RawObject:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": "team", "uid": "uid-of-flash", "generation": generation},
        "spec": {"model": {"source": "pvc://models/v4"}, **spec},
    }


def a_flash(name: str = "flash", *, generation: int = 1, **spec: Any) -> FlashDeployment:
    return FlashDeployment.from_object(a_flash_object(name, generation=generation, **spec))


def a_node(name: str = "node-1", **labels: str) -> RawObject:
    """A node with two GPUs; `gpu_link="phb"` sets the label `deepseekflash.dev/gpu-link: phb`."""
    own_labels = {f"deepseekflash.dev/{key.replace('_', '-')}": value for key, value in labels.items()}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": own_labels},
        "spec": {},
        "status": {"allocatable": {"nvidia.com/gpu": "2"}},
    }


def a_pod(name: str = "flash-a", *, node: str | None = "node-1", ready: bool = False, **status: Any) -> RawObject:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "team", "uid": f"uid-of-{name}", "annotations": {}},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": "Running", "conditions": conditions, **status},
    }


def an_unschedulable_pod(name: str = "flash-a", message: str = "0/1 nodes are available") -> RawObject:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return a_pod(name, node=None, phase="Pending", conditions=[condition])


def a_waiting_pod(reason: str, message: str, *, container: str = "engine", name: str = "flash-a") -> RawObject:
    waiting = {"name": container, "state": {"waiting": {"reason": reason, "message": message}}}
    pod = a_pod(name, phase="Pending")
    pod["status"]["initContainerStatuses" if container == "gate" else "containerStatuses"] = [waiting]
    return pod


def a_gate(reason: str = "Passed", message: str = "as fast as it should be", **extra: Any) -> GateResult:
    figures = {"decodeTokensPerSecond": 85.5, "acceptancePercent": 92.4, "firstTokenMillis": 155.2}
    measured = figures if reason not in ("EngineStarting", "EngineExited") else None
    return GateResult.of(
        {"reason": reason, "passed": reason == "Passed", "message": message, "measurement": measured, **extra}
    )


def a_live_deployment(flash: FlashDeployment, *, updated: int | None = None) -> RawObject:
    """The Deployment as its controller reports it once all pods have the newest template."""
    desired = next(child for child in desired_children(an_observed(flash)) if child["kind"] == "Deployment")
    live = dict(desired)
    replicas = flash.spec.replicas if updated is None else updated
    live["metadata"] = {**live["metadata"], "generation": 1}
    live["status"] = {"observedGeneration": 1, "updatedReplicas": replicas}
    return live


def an_observed(
    flash: FlashDeployment | None = None,
    *,
    pods: tuple[RawObject, ...] = (),
    nodes: tuple[RawObject, ...] = (),
    gates: dict[str, GateResult] | None = None,
    children: tuple[RawObject, ...] = (),
    live_status: RawObject | None = None,
    image_volumes: bool | None = None,
    loads: dict[str, KnownLoad] | None = None,
    scalers: Scalers | None = None,
    settings: PlanSettings = SETTINGS,
) -> Observed:
    """A snapshot at noon. `gates` has the gates' results by pod name."""
    return Observed(
        flash=flash or a_flash(),
        live_status=live_status or {},
        settings=settings,
        now=NOON,
        children={(child["kind"], child["metadata"]["name"]): child for child in children},
        pods=pods,
        nodes={node["metadata"]["name"]: node for node in nodes},
        gates={f"uid-of-{name}": gate for name, gate in (gates or {}).items()},
        image_volumes=image_volumes,
        loads={f"uid-of-{name}": load for name, load in (loads or {}).items()},
        scalers=scalers,
    )


def a_load(running: int = 0, waiting: int = 0, *, age: float = 1.0, ago: float = 1.0, **extra: int) -> KnownLoad:
    """What a gate reported `ago` seconds ago about a reading that was `age` seconds old then."""
    return KnownLoad(RequestLoad(running, waiting, age_seconds=age, **extra), ago)


def condition(status: RawObject | None, name: str) -> RawObject:
    """The condition of this type in a status document."""
    assert status is not None, "the plan writes no status"
    return next(c for c in status["conditions"] if c["type"] == name)
