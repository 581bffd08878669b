"""Outdated flags, taken: a successor starts first where GPUs are free, and a slower one is taken back."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import NOON, SETTINGS, a_flash, a_gate, a_node, a_pod, an_observed
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
        self.now = NOON
        self.speed = 85.0
        self.readies = True
        self.broken: set[str] = set()
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
        self.now += timedelta(hours=1)
        if accepts:
            self.accept()

    def accept(self) -> None:
        self.reconcile()
        self.edit(accept_update=self.status["update"]["revision"])
        self.reconcile()
        assert self.update["state"] == "Updating"

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
            now=self.now,
        )

    def start(self, node: str | None, flags: str | None = None) -> None:
        """A pod of the Deployment, bound to this node."""
        self.made += 1
        pod = a_pod(f"flash-{self.made}", node=node, ready=flags is not None)
        pod["metadata"]["creationTimestamp"] = self.now.isoformat()
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
            name = pod["metadata"]["name"]
            if ENGINE_FLAGS_ANNOTATION in pod["metadata"]["annotations"] and self.readies and name not in self.broken:
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
            self.now += timedelta(seconds=15)

    def edit(self, **rollout: Any) -> None:
        """The user changes spec.rollout."""
        changed = self.flash.spec.rollout.model_copy(update=rollout)
        self.flash = self.flash.model_copy(update={"spec": self.flash.spec.model_copy(update={"rollout": changed})})

    def pod(self, name: str) -> RawObject:
        (pod,) = [pod for pod in self.pods if pod["metadata"]["name"] == name]
        return pod

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
    site.run(3)
    assert site.evicted == [], "the scheduler may find a place yet"
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
    site.edit(state="Paused")
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


def waits(pod: RawObject, reason: str) -> None:
    pod["status"]["phase"] = "Pending"
    waiting = {"reason": reason, "message": "no such tag"}
    pod["status"]["containerStatuses"] = [{"name": "engine", "state": {"waiting": waiting}}]


def test_a_successor_that_has_a_node_and_no_image_costs_no_replica() -> None:
    site = Site()
    site.readies = False
    site.run(2)
    waits(site.pods[-1], "ErrImagePull")
    site.run(10)
    assert (site.evicted, site.stopped, site.update["state"]) == ([], [], "Updating")
    site.run(40)
    assert (site.evicted, site.stopped, site.update["state"]) == ([], ["flash-3"], "Rejected")
    assert site.update["message"].startswith("flash-3 does not start: ErrImagePull")


def test_a_node_that_is_drained_meanwhile_costs_no_other_replica() -> None:
    site = Site()
    site.readies = False
    site.run(2)
    site.nodes = (*NODES[:1], *NODES[2:])
    site.stop("flash-2")
    site.start(None)
    site.run(20)
    assert site.evicted == []
    assert is_ready(site.pod("flash-1"))


@pytest.mark.parametrize("lost", ["a pause", "a status that was not written"])
def test_what_is_forgotten_meanwhile_spreads_no_slow_flags(lost: str) -> None:
    site = Site(nodes=2)
    site.speed = 60.0
    site.run(1)
    if lost == "a pause":
        site.edit(state="Paused")
        site.run(5)
        site.edit(state="Active")
    else:
        before = site.status
        site.run(3)
        site.status = before
    site.run()
    assert (site.evicted, site.update["state"]) == (["flash-1"], "Rejected")
    assert "29 % slower than the previous one's 85.0" in site.update["message"]


def test_a_successor_that_hangs_on_a_node_where_none_ran_before_is_stopped_again() -> None:
    site = Site()
    site.broken = {"flash-3"}
    site.run(3)
    site.gates["flash-3"] = a_gate("StartupHang", "no token")
    site.run()
    assert (site.names, site.update["state"]) == (["flash-1", "flash-2"], "Rejected")


def test_an_outdated_replica_that_fails_while_its_successor_loads_is_the_one_that_goes() -> None:
    site = Site()
    site.run(1)
    site.broken = {"flash-2"}
    site.pod("flash-2")["status"]["conditions"][0]["status"] = "False"
    site.gates["flash-2"] = a_gate("TooSlow", "41 tok/s")
    site.run()
    assert site.stopped == ["flash-2", "flash-1"]
    assert (site.update["state"], site.deployment["spec"]["replicas"]) == ("UpToDate", REPLICAS)


def test_an_outdated_replica_that_does_not_serve_is_replaced_at_once() -> None:
    site = Site()
    site.broken = {"flash-2"}
    site.pod("flash-2")["status"]["conditions"][0]["status"] = "False"
    site.gates["flash-2"] = a_gate("TooSlow", "41 tok/s")
    site.run()
    assert (site.evicted, site.stopped) == (["flash-2"], ["flash-1"])
    assert site.update["state"] == "UpToDate"


def test_without_a_last_known_good_template_a_failure_counts_all_the_same() -> None:
    site = Site()
    site.gates |= {name: a_gate("Degraded", "slow", measurement={"decodeTokensPerSecond": 85.0}) for name in site.names}
    site.children = {key: child for key, child in site.children.items() if not key[1].endswith("last-known-good")}
    site.broken = {"flash-3"}
    site.run(3)
    site.gates["flash-3"] = a_gate("WrongOutput", "41")
    site.run()
    assert (site.names, site.update["state"]) == (["flash-1", "flash-2"], "Rejected")


def test_scaling_in_during_an_update_is_no_surge() -> None:
    site = Site(nodes=2)
    site.broken = {"flash-2"}
    site.pod("flash-2")["status"]["conditions"][0]["status"] = "False"
    site.flash = site.flash.model_copy(update={"spec": site.flash.spec.model_copy(update={"replicas": 1})})
    site.reconcile()
    assert site.deployment["spec"]["replicas"] == 1


def test_an_answer_of_the_gate_that_is_lost_rejects_nothing() -> None:
    """Status has whole numbers: 76 tok/s would be too slow where 76.9 is not."""
    site = Site()
    site.speed = 76.9
    site.run(3)
    site.reconcile()
    lost = site.gates.pop("flash-3")
    wanted = site.reconcile()
    site.gates["flash-3"] = lost
    assert wanted.status is None or wanted.status["update"]["state"] == "Updating"
    site.run()
    assert site.update["state"] == "UpToDate"


def test_a_mark_of_before_costs_a_successor_nothing() -> None:
    site = Site()
    site.run(1)
    site.run_controllers()
    site.pods[-1]["metadata"]["annotations"][DELETION_COST] = str(FIRST_TO_STOP)
    site.run()
    assert site.stopped == ["flash-1", "flash-2"]


def test_an_eviction_whose_status_is_lost_goes_on() -> None:
    site = Site(nodes=2)
    before = site.status
    site.run(1)
    assert site.evicted == ["flash-1"]
    site.status = before
    site.run()
    assert (site.evicted, site.update["state"]) == (["flash-1", "flash-2"], "UpToDate")


def test_flags_that_were_rejected_are_not_taken_again_when_labels_come_back() -> None:
    site = Site()
    site.speed = 60.0
    site.run()
    labelled = site.nodes
    site.nodes = tuple(a_gpu_node(node["metadata"]["name"], "nvl") for node in site.nodes)
    site.reconcile()
    site.nodes = labelled
    site.run()
    assert (site.update["state"], site.made) == ("Rejected", REPLICAS + 1)


def test_a_user_who_allows_more_gets_the_rejected_flags() -> None:
    site = Site()
    site.speed = 60.0
    site.run()
    site.edit(max_slowdown_percent=50)
    site.run()
    assert (site.update["state"], site.stopped) == ("UpToDate", ["flash-3", "flash-1", "flash-2"])


def test_a_slow_successor_is_not_hidden_by_a_younger_replica() -> None:
    site = Site(nodes=3)
    site.run(1)
    site.speed = 50.0
    site.run(1)
    site.speed = 85.0
    site.stop("flash-2")
    site.start("node-2")
    site.run()
    assert site.update["state"] == "Rejected"
    assert "flash-3 decodes 50.0 tok/s" in site.update["message"]


def test_an_update_that_is_taken_no_longer_leaves_no_replica_too_many() -> None:
    site = Site()
    site.run(3)
    assert site.deployment["spec"]["replicas"] == REPLICAS + 1
    site.edit(accept_update=None)
    site.status = {**site.status, "update": {"state": "UpToDate", "revision": "", "message": "", "changes": []}}
    site.run()
    assert (site.stopped, site.deployment["spec"]["replicas"]) == (["flash-1"], REPLICAS)
