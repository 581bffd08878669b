"""The input of a reconcile: one frozen snapshot, gathered by `runtime.observer` and read by `core.plan`."""

from dataclasses import dataclass, field
from datetime import datetime

from flash_contracts.gate_result import GateResult
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.activator import ActivatorView, asks_for_zero
from flash_operator.core.observed.known_load import KnownLoad
from flash_operator.core.observed.raw import RawObject
from flash_operator.core.observed.remembered import Remembered
from flash_operator.core.observed.scalers import Scalers

__all__ = ["GpuSupply", "Observed", "PlanSettings", "RawObject"]


@dataclass(frozen=True)
class PlanSettings:
    """What the operator's administrator decides for every deployment."""

    engine_image: str
    quantiser_image: str
    demand_url: str = ""
    """The operator's address for KEDA, without a path; empty if it is unknown."""


@dataclass(frozen=True)
class GpuSupply:
    """The cluster's GPUs and the pods of all namespaces that hold them or wait for them."""

    nodes: tuple[RawObject, ...]
    """Every node with GPUs."""
    pods: tuple[RawObject, ...]
    """Every pod that is bound to one of these nodes, or not bound yet."""


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
    """Each gate's result by pod uid; a pod without an IP address has no entry."""
    loads: dict[str, KnownLoad] = field(default_factory=dict)
    """What the gates last reported about the requests on their engines, by pod uid."""
    scalers: Scalers | None = None
    """Autoscalers of the namespace; None unless the deployment has `spec.scaling`, had it, or its Deployment has other
    replicas than it should."""
    activator: ActivatorView | None = None
    """None where the chart installs none, or the deployment does not ask for zero replicas."""
    ready_seconds: dict[str, float] = field(default_factory=dict)
    """How long the operator has seen each ready replica ready, by pod uid; only where `activator` is set."""
    gpu_supply: GpuSupply | None = None
    """None unless a rollout may start: the spec has just changed, or an engine update may be taken. Only that needs a
    cluster-wide list."""
    update_holder: str | None = None
    """NAMESPACE/NAME of the deployment whose turn it is to take an engine update; None where that does not matter."""
    restore_pods: tuple[RawObject, ...] = ()
    """Pods of the Job that restores the MTP head."""
    image_volumes: bool | None = None
    """Whether the API server keeps image volumes; None where no oci:// model depends on the answer."""
    settled: frozenset[tuple[str, str, str]] = frozenset()
    """Kind, name and hash of content of the children that are now what the API server made of that content: to apply
    it again would change nothing."""
    objection: str | None = None
    """Why the API server would refuse the spec if it were new; empty if it would not, None if that is unknown."""
    name_taken: str | None = None
    """An object that has the name of a child and belongs to somebody else: nothing is applied."""
    refusal: str | None = None
    """Why the API server rejected a child, in its own words: an invalid podTemplate, a quota, a policy."""

    remembered: Remembered = field(default_factory=Remembered, compare=False, repr=False)
    """Saves time, and changes no plan."""

    @property
    def may_go_to_zero(self) -> bool:
        """The spec asks for it, and something would hold the next request and wake the deployment."""
        return asks_for_zero(self.flash) and self.activator is not None and self.activator.port is not None
