"""What a reconcile looks at: one frozen snapshot, gathered by `runtime.observer` and read by `core.plan`."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.gate_result import GateResult

RawObject: TypeAlias = dict[str, Any]
"""A Kubernetes object as its JSON. Typed models of the client drop unknown fields and are four times slower."""


@dataclass(frozen=True)
class PlanSettings:
    """What the operator's administrator decides for every deployment."""

    engine_image: str


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
    refusal: str | None = None
    """Why the API server refused a child, in its own words: a podTemplate that is no pod, a quota, a policy."""
