"""Outdated flags, taken: a successor starts first where GPUs are free, and a slower one is taken back."""

from dataclasses import replace
from typing import Any

import pytest

from builders import SETTINGS, a_flash, a_gate, a_node, a_pod, an_observed
from flash_contracts.gate_result import GateResult
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION, FLOOR_ANNOTATION, REVISION_ANNOTATION
from flash_contracts.node_facts import NodeFacts
from flash_operator.core.observed.snapshot import GpuSupply, Observed, RawObject
from flash_operator.core.plan import Plan, desired_children, plan
from flash_operator.core.replicas.replica import DELETION_COST, FIRST_TO_STOP
from flash_operator.core.resources.deployment import pod_template
from flash_operator.core.resources.revision import revision_of
from flash_operator.core.rollout.rollout import LastKnownGood, last_known_good_config_map


def a_gpu_node(name: str, link: str = "phb") -> RawObject:
    node = a_node(name, gpu_link=link, gpu_p2p="verified")
    node["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    return node


NODES = tuple(map(a_gpu_node, ("node-1", "node-2", "node-3")))
SAFE_FLAGS = '{"version": 1, "row": "T8", "args": [], "env": []}'
TEMPLATE = pod_template(a_flash(), SETTINGS)
SPEED_CLASS = NodeFacts.from_node(NODES[0]).speed_class
REPLICAS = 2


class Site:
    """Two replicas with outdated flags on the first two nodes, and what the cluster makes of the plans."""

    def __init__(self, *, nodes: int = 3, accepts: bool = True, **rollout: Any) -> None:
        self.nodes = NODES[:nodes]
        self.made = 0
        self.speed = 85.0
        self.readies = True
        self.pods: list[RawObject] = []
        self.gates: dict[str, GateResult] = {}
        self.evicted: list[str] = []
        self.stopped: list[str] = []
        self.least_ready = REPLICAS
        self.deployment_status: RawObject = {}
        self.flash = a_flash(replicas=REPLICAS, rollout=rollout)
        self.status: RawObject = {"rollout": {"state": "Settled", "revision": revision_of(TEMPLATE)}}
        good = LastKnownGood(revision_of(TEMPLATE), TEMPLATE, 85.0, {}, {SPEED_CLASS: 85.0})
        self.status["rollout"]["provenRevision"] = good.revision
        observed = an_observed(self.flash)
        self.children = {(child["kind"], child["metadata"]["name"]): child for child in desired_children(observed)}
        document = last_known_good_config_map(self.flash, good)
        self.children["ConfigMap", document["metadata"]["name"]] = document
        for node in self.nodes[:REPLICAS]:
            self.start(node["metadata"]["name"], SAFE_FLAGS)
        if accepts:
            self.accept()

    def accept(self) -> None:
        self.reconcile()
        rollout = self.flash.spec.rollout.model_copy(update={"accept_update": self.status["update"]["revision"]})
        spec = self.flash.spec.model_copy(update={"rollout": rollout})
        self.flash = self.flash.model_copy(update={"spec": spec})

    @property
    def deployment(self) -> RawObject:
        return self.children["Deployment", "flash"]

    @property
    def observed(self) -> Observed:
        supply = GpuSupply(nodes=self.nodes, pods=tuple(map(with_gpus, self.pods)))
        children = {**self.children, ("Deployment", "flash"): {**self.deployment, "status": self.deployment_status}}
        return replace(
            an_observed(self.flash, pods=tuple(self.pods), nodes=self.nodes, gates=self.gates, live_status=self.status),
            children=children,
            gpu_supply=supply,
        )

    def start(self, node: str | None, flags: str | None = None) -> None:
        """A pod of the Deployment, bound to this node."""
        self.made += 1
        pod = a_pod(f"flash-{self.made}", node=node, ready=flags is not None)
        pod["metadata"]["creationTimestamp"] = f"2026-11-24T10:{self.made:02}:00Z"
        pod["metadata"]["annotations"] = {REVISION_ANNOTATION: revision_of(TEMPLATE)}
        if flags:
            pod["metadata"]["annotations"][ENGINE_FLAGS_ANNOTATION] = flags
            self.gates[pod["metadata"]["name"]] = decoding_at(self.speed)
        if node is None:
            pod["status"] = {
                "phase": "Pending",
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPUs"}
                ],
            }
        self.pods.append(pod)

    def reconcile(self) -> Plan:
        """One reconcile: what it writes, and what it evicts."""
        wanted = plan(self.observed)
        self.children |= {(child["kind"], child["metadata"]["name"]): child for child in wanted.apply}
        for annotation in wanted.annotate:
            (pod,) = [pod for pod in self.pods if pod["metadata"]["uid"] == annotation.uid]
            pod["metadata"]["annotations"] |= annotation.annotations
        for ref in wanted.evict:
            self.evicted.append(ref.name)
            self.stop(ref.name)
        self.status = wanted.status or self.status
        return wanted

    def stop(self, name: str) -> None:
        self.pods = [pod for pod in self.pods if pod["metadata"]["name"] != name]

    def run_controllers(self) -> None:
        """The ReplicaSet controller and the scheduler, and then the gates of new replicas."""
        wanted: int = self.deployment["spec"]["replicas"]
        while len(self.pods) > wanted:
            victim = min(self.pods, key=stopped_order)["metadata"]["name"]
            self.stopped.append(victim)
            self.stop(victim)
        ready = [pod for pod in self.pods if is_ready(pod)]
        self.least_ready = min(self.least_ready, len(ready))
        for pod in self.pods:
            if ENGINE_FLAGS_ANNOTATION in pod["metadata"]["annotations"] and self.readies:
                pod["status"]["conditions"][0]["status"] = "True"
                self.gates.setdefault(pod["metadata"]["name"], decoding_at(self.speed))
        taken = {pod["spec"].get("nodeName") for pod in self.pods}
        free = [node["metadata"]["name"] for node in self.nodes if node["metadata"]["name"] not in taken]
        for pod in self.pods:
            if not pod["spec"].get("nodeName") and free:
                pod |= {"spec": {"nodeName": free.pop(0)}, "status": a_pod()["status"]}
        while len(self.pods) < wanted and "ReplicaFailure" not in str(self.deployment_status):
            self.start(free.pop(0) if free else None)

    def run(self, rounds: int = 20) -> None:
        for _ in range(rounds):
            self.reconcile()
            self.run_controllers()

    @property
    def names(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods]

    @property
    def update(self) -> RawObject:
        update: RawObject = self.status["update"]
        return update


def is_ready(pod: RawObject) -> bool:
    return bool(pod["status"]["conditions"][0]["status"] == "True")


def stopped_order(pod: RawObject) -> tuple[bool, int, str]:
    """Replicas that are not ready first, then by cost, then the youngest (kubernetes, ActivePodsWithRanks)."""
    cost = int(pod["metadata"]["annotations"].get(DELETION_COST) or 0)
    return is_ready(pod), cost, "".join(chr(255 - ord(c)) for c in pod["metadata"]["creationTimestamp"])


def with_gpus(pod: RawObject) -> RawObject:
    return {**pod, "spec": {**pod["spec"], "containers": [{"resources": {"requests": {"nvidia.com/gpu": "2"}}}]}}


def decoding_at(speed: float) -> GateResult:
    return a_gate(measurement={"decodeTokensPerSecond": speed})


def test_nothing_is_replaced_before_the_update_is_taken() -> None:
    site = Site(accepts=False)
    site.run()
    assert (site.names, site.update["state"]) == (["flash-1", "flash-2"], "Available")


def test_successors_start_first_where_gpus_are_free() -> None:
    site = Site()
    site.run()

    assert site.stopped == ["flash-1", "flash-2"]
    assert site.evicted == []
    assert site.made == 2 * REPLICAS, "each replica was replaced once"
    assert site.least_ready == REPLICAS
    assert site.deployment["spec"]["replicas"] == REPLICAS
    assert site.update["state"] == "UpToDate"


@pytest.mark.parametrize(
    "site",
    [Site(nodes=2), Site(surge="Disabled")],
    ids=["no GPUs are free", "the user wants no surge"],
)
def test_without_a_surge_replicas_are_evicted_one_by_one(site: Site) -> None:
    site.run()
    assert (site.evicted, site.stopped, site.least_ready) == (["flash-1", "flash-2"], [], REPLICAS - 1)
    assert site.update["state"] == "UpToDate"


def test_a_successor_that_is_slower_is_stopped_again_and_the_others_keep_their_flags() -> None:
    site = Site()
    site.speed = 60.0
    site.run()

    assert (site.names, site.stopped, site.evicted) == (["flash-1", "flash-2"], ["flash-3"], [])
    assert site.least_ready == REPLICAS
    assert site.update["state"] == "Rejected"
    assert site.update["message"] == (
        "flash-3 decodes 60.0 tok/s with the new flags of its node, 29 % slower than the previous one's 85.0; "
        "rollout.maxSlowdownPercent is 10; the other replicas keep their flags"
    )
    assert site.made == REPLICAS + 1, "it is not tried again"


def test_a_successor_that_fails_its_gate_is_stopped_again() -> None:
    site = Site()
    site.readies = False
    site.run(3)
    site.gates["flash-3"] = a_gate("TooSlow", "41 tok/s", attempts=2)
    site.run()

    assert (site.names, site.update["state"]) == (["flash-1", "flash-2"], "Rejected")
    assert site.update["message"].startswith("flash-3 failed with the new flags of its node: TooSlow: 41 tok/s")


def test_an_evicted_replica_that_comes_back_slower_is_the_only_one() -> None:
    site = Site(nodes=2)
    site.speed = 60.0
    site.run()

    assert (site.evicted, site.update["state"]) == (["flash-1"], "Rejected")
    assert site.names == ["flash-2", "flash-3"]


def test_a_rejected_update_of_flags_is_offered_again_once_other_labels_call_for_other_flags() -> None:
    site = Site()
    site.speed = 60.0
    site.run()
    site.nodes = tuple(a_gpu_node(node["metadata"]["name"], "nvl") for node in site.nodes)
    site.reconcile()
    assert site.update["state"] == "Available"


def test_the_gate_of_a_successor_measures_twice_if_it_is_slower() -> None:
    site = Site()
    site.run(1)
    site.reconcile()
    floors = [pod["metadata"]["annotations"].get(FLOOR_ANNOTATION) for pod in site.pods]
    assert floors == [None, None, '{"minTokensPerSecond":0.0,"told":"","measureAgainBelow":76.5}']


def test_gpus_that_are_taken_meanwhile_do_not_stop_the_update() -> None:
    site = Site()
    site.run(1)
    site.nodes = NODES[:2]  # the third is gone
    site.pods = site.pods[:REPLICAS]
    site.run()
    assert site.update["state"] == "UpToDate"
    assert site.evicted == ["flash-1", "flash-2"]
    assert site.deployment["spec"]["replicas"] == REPLICAS


def test_a_quota_that_allows_no_pod_more_does_not_stop_the_update() -> None:
    site = Site()
    site.deployment_status = {
        "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}]
    }
    site.run(3)
    assert site.evicted == ["flash-1"]
    assert site.deployment["spec"]["replicas"] == REPLICAS


def test_nothing_goes_on_while_a_replica_terminates() -> None:
    site = Site()
    site.run(1)
    assert site.deployment["spec"]["replicas"] == REPLICAS + 1
    terminating = a_pod("flash-9")
    terminating["metadata"]["deletionTimestamp"] = "2026-11-24T11:59:00Z"
    site.pods = [*site.pods[:REPLICAS], terminating]
    for _ in range(3):
        site.reconcile()
    assert (site.deployment["spec"]["replicas"], site.evicted) == (REPLICAS + 1, [])


def test_a_pause_keeps_the_replicas_as_they_are() -> None:
    site = Site()
    site.run(2)
    rollout = site.flash.spec.rollout.model_copy(update={"state": "Paused"})
    site.flash = site.flash.model_copy(update={"spec": site.flash.spec.model_copy(update={"rollout": rollout})})
    site.run(3)
    assert (len(site.names), site.stopped, site.evicted) == (REPLICAS + 1, [], [])


def test_the_one_to_stop_is_marked_before_the_deployment_loses_a_replica() -> None:
    site = Site()
    while site.deployment["spec"]["replicas"] == REPLICAS:
        site.run(1)
    while site.deployment["spec"]["replicas"] != REPLICAS:
        marked = [
            pod["metadata"]["name"]
            for pod in site.pods
            if pod["metadata"]["annotations"].get(DELETION_COST) == str(FIRST_TO_STOP)
        ]
        wanted = site.reconcile()
        if site.deployment["spec"]["replicas"] != REPLICAS:
            site.run_controllers()
    assert marked == ["flash-1"]
    assert wanted.is_irreversible
