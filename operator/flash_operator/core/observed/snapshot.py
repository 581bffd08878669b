"""What a reconcile looks at: one frozen snapshot, gathered by `runtime.observer` and read by `core.plan`."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from flash_contracts.gate_result import GateResult
from flash_operator.api.v1alpha1 import FlashDeployment

RawObject: TypeAlias = dict[str, Any]
"""A Kubernetes object as its JSON. Typed models of the client drop unknown fields and are four times slower."""


def is_ready(raw: RawObject) -> bool:
    """The condition Ready of a pod or a node, in the kubelet's words."""
    conditions: list[RawObject] = raw.get("status", {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


@dataclass(frozen=True)
class PlanSettings:
    """What the operator's administrator decides for every deployment."""

    engine_image: str
    quantiser_image: str


@dataclass(frozen=True)
class GpuSupply:
    """Who offers GPUs, and who holds them or waits for them, of all namespaces."""

    nodes: tuple[RawObject, ...]
    """Every node with GPUs."""
    pods: tuple[RawObject, ...]
    """Every pod that is bound to one of them, or waits for a node."""


@dataclass(frozen=True)
class Observed:
    """Everything a plan may depend on. Two equal snapshots give two equal plans."""

    flash: FlashDeployment
    live_status: RawObject
    settings: PlanSettings
    now: datetime
    children: dict[tuple[str, str], RawObject] = field(default_factory=dict)
    """Live children by (kind, name)."""
    pods: tuple[RawObject, ...] = ()
    nodes: dict[str, RawObject] = field(default_factory=dict)
    """Nodes that the pods are bound to, by name."""
    gates: dict[str, GateResult] = field(default_factory=dict)
    """What each pod's gate said of itself, by pod uid; a pod that has no address yet has no entry."""
    gpu_supply: GpuSupply | None = None
    """Looked at where the spec has changed, None else: it is a look at more than our own."""
    restore_pods: tuple[RawObject, ...] = ()
    """Of the Job that restores the MTP head."""
    image_volumes: bool | None = None
    """Whether the API server keeps them. Asked where an oci:// model's delivery depends on it, None else."""
    refusal: str | None = None
    """Why the API server refused a child, in its own words: a podTemplate that is no pod, a quota, a policy."""
