"""A cluster that applies plans to a snapshot, as the API server and the Deployment controller would."""

from dataclasses import replace
from typing import Any

from builders import SETTINGS, a_flash, a_gate, a_node, a_pod, an_observed
from flash_contracts.gate_result import GateResult
from flash_contracts.names import REVISION_ANNOTATION
from flash_contracts.orders import DeploymentOrders
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import Plan, plan
from flash_operator.core.resources.revision import revision_of

UPGRADED = replace(SETTINGS, engine_image="registry.example/flash/engine:2")
VERIFIED = a_node(gpu_link="phb", gpu_p2p="verified")


class Cluster:
    """One deployment, whose pods run the Deployment's template at once and pass at `speed`."""

    def __init__(self, flash: FlashDeployment, nodes: tuple[RawObject, ...] = (VERIFIED,)) -> None:
        self.observed = an_observed(flash, nodes=nodes)
        self.speed = 85.5
        self.reconcile()
        self.reconcile()

    def reconcile(self) -> Plan:
        """One reconcile, and then pods of the Deployment's template that have passed their gates."""
        wanted = plan(self.observed)
        children = dict(self.observed.children)
        for child in wanted.apply:
            metadata = {**child["metadata"], "generation": 1}
            status = {"observedGeneration": 1, "updatedReplicas": self.observed.flash.spec.replicas}
            children[(child["kind"], child["metadata"]["name"])] = {**child, "metadata": metadata, "status": status}
        for ref in wanted.delete:
            children.pop((ref.kind, ref.name))
        status = self.observed.live_status if wanted.status is None else wanted.status
        self.observed = replace(self.observed, children=children, live_status=status)
        self.replace_pods()
        return wanted

    def replace_pods(self) -> None:
        pods, gates = [], {}
        for number in range(self.observed.flash.spec.replicas):
            pod = a_pod(f"flash-{number}-{self.revision}", ready=True)
            pod["metadata"]["annotations"][REVISION_ANNOTATION] = self.revision
            pods.append(pod)
            gates[pod["metadata"]["uid"]] = decoding_at(self.speed)
        self.observed = replace(self.observed, pods=tuple(pods), gates=gates)

    @property
    def template(self) -> RawObject:
        template: RawObject = self.observed.children["Deployment", "flash"]["spec"]["template"]
        return template

    @property
    def revision(self) -> str:
        return revision_of(self.template)

    @property
    def images(self) -> set[str]:
        spec = self.template["spec"]
        return {container["image"] for container in (*spec["initContainers"], *spec["containers"])}

    @property
    def update(self) -> RawObject:
        update: RawObject = self.observed.live_status["update"]
        return update

    def upgrade(self) -> None:
        self.observed = replace(self.observed, settings=UPGRADED)
        self.reconcile()
        self.reconcile()

    def edit(self, **spec: Any) -> None:
        flash = a_flash(generation=self.observed.flash.generation + 1, **spec)
        self._put(flash.model_copy(update={"orders": self.observed.flash.orders}))

    def order(self, *, rollback: str | None = None, retry: str | None = None) -> Plan:
        """Writes both annotations, or removes them."""
        orders = DeploymentOrders(retry_text=retry, rollback_text=rollback)
        return self._put(self.observed.flash.model_copy(update={"orders": orders}))

    def _put(self, flash: FlashDeployment) -> Plan:
        self.observed = replace(self.observed, flash=flash)
        return self.reconcile()


def decoding_at(speed: float) -> GateResult:
    return a_gate(measurement={"decodeTokensPerSecond": speed})
