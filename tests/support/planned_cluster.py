"""A model of a cluster in which plans are carried out: nodes, a Deployment controller, a scheduler, kubelets and gates.

What it keeps to: two GPUs a node, one replica a node; maxSurge, maxUnavailable and minReadySeconds of the Deployment;
the order in which a ReplicaSet loses pods; pods that terminate for one round and hold their GPUs meanwhile. How good a
template is follows from what it says, so that every run with the same template ends alike.
"""

import copy
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from builders import NOON, SETTINGS, a_flash_object, a_gate, a_node, a_pod, an_observed
from flash_contracts.gate_result import GateResult
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION, QUARANTINE_ANNOTATION
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.kube import is_ready, is_terminating
from flash_operator.core.observed.snapshot import GpuSupply, Observed, RawObject
from flash_operator.core.plan import Plan, plan
from flash_operator.core.replicas.replica import DELETION_COST
from flash_operator.core.resources.deployment import JUDGE_SECONDS
from flash_operator.core.resources.revision import revision_of_pod
from flash_operator.core.rollout.engine_update import may_update

FAST, SLOW = 85.0, 50.0
SLOW_TOKENS, BROKEN_TOKENS = 5003, 4099
ROUND = timedelta(seconds=15)
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPUs"}
NODES = ("node-1", "node-2", "node-3", "node-4")


def image(number: int) -> str:
    return f"registry.example/flash/engine:{number}"


class PlannedCluster:
    """One deployment, on up to four nodes. Each method that others than the operator would call is an event."""

    def __init__(self) -> None:
        self.now = NOON
        self.raw = a_flash_object(replicas=2)
        self._flash = FlashDeployment.from_object(self.raw)
        self.settings = replace(SETTINGS, engine_image=image(1))
        self.status: RawObject = {}
        self.children: dict[tuple[str, str], RawObject] = {}
        self.pods: list[RawObject] = []
        self.made = 0
        self.ready_since: dict[str, Any] = {}
        self.degraded: set[str] = set()
        """Uids of replicas that are slow while they serve."""
        self.silent: set[str] = set()
        """Uids of replicas whose gate does not answer."""
        self.nodes = {name: self._new_node(name) for name in NODES}
        self.taken: set[str] = set()
        """Nodes whose GPUs another tenant has."""

    # The operator.

    @property
    def flash(self) -> FlashDeployment:
        if self._flash.generation != self.raw["metadata"]["generation"]:
            self._flash = FlashDeployment.from_object(self.raw)
        return self._flash

    @property
    def deployment(self) -> RawObject | None:
        return self.children.get(("Deployment", "flash"))

    def observe(self) -> Observed:
        flash = self.flash
        asked = self.status.get("observedGeneration") not in (None, flash.generation) or may_update(flash, self.status)
        supply = GpuSupply(tuple(self.nodes.values()), (*self.pods, *map(others_pod, sorted(self.taken))))
        paced = flash.spec.rollout.engine_updates == "Paced" and may_update(flash, self.status)
        seen = an_observed(flash, live_status=self.status, settings=self.settings)
        return replace(
            seen,
            now=self.now,
            children=dict(self.children),
            pods=tuple(self.pods),
            nodes=dict(self.nodes),
            gates={pod["metadata"]["uid"]: self.gate_of(pod) for pod in self.pods if is_started(pod)},
            gpu_supply=supply if asked or not self.status else None,
            update_holder=flash.key if paced else None,
        )

    def carry_out(self, wanted: Plan) -> None:
        for child in wanted.apply:
            place = child["kind"], child["metadata"]["name"]
            generation = (self.children.get(place) or child)["metadata"].get("generation", 0) + 1
            self.children[place] = {**child, "metadata": {**child["metadata"], "generation": generation}}
        for annotation in wanted.annotate:
            self._annotate(annotation.uid, annotation.annotations)
        for ref in wanted.delete:
            self.children.pop((ref.kind, ref.name), None)
            self.pods = [pod for pod in self.pods if pod["metadata"]["uid"] != ref.uid]
        for ref in wanted.evict:
            self.terminate(pod for pod in self.pods if pod["metadata"]["uid"] == ref.uid)
        self.status = self.status if wanted.status is None else wanted.status

    def _annotate(self, uid: str, annotations: dict[str, str | None]) -> None:
        for pod in self.pods:
            if pod["metadata"]["uid"] == uid:
                merged = {**pod["metadata"]["annotations"], **annotations}
                pod["metadata"]["annotations"] = {key: value for key, value in merged.items() if value is not None}

    # The user, the administrator, and fate.

    def edit(self, **spec: Any) -> None:
        self.raw = copy.deepcopy(self.raw)
        self.raw["spec"] |= spec
        self.raw["metadata"]["generation"] += 1

    def edit_rollout(self, **rollout: Any) -> None:
        self.edit(rollout={**self.raw["spec"].get("rollout", {}), **rollout})

    def lose_node(self, name: str) -> None:
        self.nodes.pop(name, None)
        self.terminate(pod for pod in self.pods if pod["spec"].get("nodeName") == name)

    def relabel(self, name: str, p2p: str) -> None:
        if name in self.nodes:
            self.nodes[name] = self._new_node(name, p2p)

    def heal(self) -> None:
        """Everything works again, and there is room."""
        self.nodes = {name: self.nodes.get(name) or self._new_node(name) for name in NODES}
        self.taken, self.degraded, self.silent = set(), set(), set()

    @staticmethod
    def _new_node(name: str, p2p: str = "verified") -> RawObject:
        node = a_node(name, gpu_link="phb", gpu_p2p=p2p)
        node["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
        return node

    # Controllers, kubelets and gates.

    def pass_round(self) -> None:
        """Fifteen seconds: everybody but the operator does what there is to do."""
        self.pods = [pod for pod in self.pods if not is_terminating(pod)]
        self._start_engines()
        self._control_deployment()
        self._schedule()
        self.now += ROUND

    def gate_of(self, pod: RawObject) -> GateResult:
        uid = pod["metadata"]["uid"]
        if uid in self.silent:
            return GateResult.unreachable("no answer in time")
        speed = speed_of(pod["template"])
        if not pod["status"].get("loaded"):
            return a_gate("EngineStarting", "the engine loads")
        if speed is None:
            return a_gate("WrongOutput", "the golden answer is wrong", attempts=2)
        measured = {"decodeTokensPerSecond": speed, "acceptancePercent": 90.0}
        if uid in self.degraded:
            serving = {"degraded": {"message": "slow", "since": f"since-{uid}", "measured": True}}
            return a_gate("Degraded", "slow", measurement=measured, serving=serving)
        return a_gate(measurement=measured, attempts=2)

    def in_service(self) -> list[RawObject]:
        """Ready replicas that are neither about to end nor taken out of service."""
        alive = (pod for pod in self.pods if is_ready(pod) and not is_terminating(pod))
        return [pod for pod in alive if QUARANTINE_ANNOTATION not in pod["metadata"]["annotations"]]

    def has_room_for(self, replicas: int) -> bool:
        return len(self.nodes.keys() - self.taken) >= replicas

    def terminate(self, pods: Iterable[RawObject]) -> None:
        for pod in list(pods):
            pod["metadata"].setdefault("deletionTimestamp", self.now.isoformat())

    def _start_engines(self) -> None:
        """A pod on a node is set up in one round, loads in the next, and is probed in the one after that."""
        for pod in self.pods:
            uid, status = pod["metadata"]["uid"], pod["status"]
            if not pod["spec"].get("nodeName"):
                continue
            passed = status.get("loaded") and speed_of(pod["template"]) is not None and uid not in self.silent
            quarantined = uid in self.degraded and QUARANTINE_ANNOTATION in pod["metadata"]["annotations"]
            ready = bool(passed) and not quarantined
            status["conditions"] = [{"type": "Ready", "status": str(ready)}]
            if ready:
                self.ready_since.setdefault(uid, self.now)
            else:
                self.ready_since.pop(uid, None)
            status["loaded"] = is_started(pod) and ENGINE_FLAGS_ANNOTATION in pod["metadata"]["annotations"]
            gate = {"name": "gate", "state": {"running": {}}}
            status |= {"phase": "Running", "initContainerStatuses": [gate], "podIP": "127.0.2.1"}

    def _control_deployment(self) -> None:
        made = self.deployment
        if made is None:
            return
        wanted, template = made["spec"]["replicas"], made["spec"]["template"]
        alive = [pod for pod in self.pods if not is_terminating(pod)]
        new = [pod for pod in alive if revision_of_pod(pod) == revision_of_pod(template)]
        old = [pod for pod in alive if pod not in new]
        if made["spec"].get("paused"):
            self._scale(alive, wanted, (old[-1] if old else new[-1])["template"] if alive else template)
        else:
            self._roll(made, new, old)
        alive = [pod for pod in self.pods if not is_terminating(pod)]
        updated = sum(revision_of_pod(pod) == revision_of_pod(template) for pod in alive)
        made["status"] = {"observedGeneration": made["metadata"]["generation"], "updatedReplicas": updated}

    def _roll(self, made: RawObject, new: list[RawObject], old: list[RawObject]) -> None:
        wanted, rolling = made["spec"]["replicas"], made["spec"]["strategy"]["rollingUpdate"]
        least = wanted - rolling["maxUnavailable"]
        broken = [pod for pod in old if not self._is_available(pod)]
        missing = sum(not self._is_available(pod) for pod in new)
        spare = max(0, len(new) + len(old) - least - missing)
        self.terminate(broken[:spare])
        available = sum(map(self._is_available, (*new, *old)))
        good = sorted((pod for pod in old if pod not in broken), key=stopped_order)
        self.terminate(good[: max(0, available - least)])
        most = wanted + rolling["maxSurge"]
        alive = sum(not is_terminating(pod) for pod in (*new, *old))
        self._scale(new, min(wanted, len(new) + max(0, most - alive)), made["spec"]["template"])

    def _scale(self, pods: list[RawObject], wanted: int, template: RawObject) -> None:
        self.terminate(sorted(pods, key=stopped_order)[: max(0, len(pods) - wanted)])
        for _ in range(wanted - len(pods)):
            self._make_pod(template)

    def _make_pod(self, template: RawObject) -> None:
        self.made += 1
        pod = a_pod(f"flash-{self.made:03}", node=None, phase="Pending")
        pod["metadata"]["creationTimestamp"] = self.now.isoformat()
        pod["metadata"]["annotations"] = dict(template["metadata"].get("annotations") or {})
        pod["spec"] = {"containers": [{"name": "engine", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]}
        pod["template"] = copy.deepcopy(template)
        self.pods.append(pod)

    def _is_available(self, pod: RawObject) -> bool:
        since = self.ready_since.get(pod["metadata"]["uid"])
        return is_ready(pod) and since is not None and self.now - since >= timedelta(seconds=JUDGE_SECONDS)

    def _schedule(self) -> None:
        used = {pod["spec"].get("nodeName") for pod in self.pods} | self.taken
        free = [name for name in sorted(self.nodes) if name not in used]
        for pod in self.pods:
            if pod["spec"].get("nodeName") or is_terminating(pod):
                continue
            if free:
                pod["spec"]["nodeName"] = free.pop(0)
                pod["status"] = {"phase": "Pending", "conditions": []}
            else:
                pod["status"] = {"phase": "Pending", "conditions": [UNSCHEDULABLE]}


def planned(cluster: PlannedCluster) -> tuple[Observed, Plan]:
    observed = cluster.observe()
    return observed, plan(observed)


def is_started(pod: RawObject) -> bool:
    return bool(pod["status"].get("initContainerStatuses"))


def speed_of(template: RawObject) -> float | None:
    """None: it starts, and gives wrong answers."""
    text = json.dumps(template)
    if str(BROKEN_TOKENS) in text or image(4) in text:
        return None
    return SLOW if str(SLOW_TOKENS) in text or image(3) in text else FAST


def others_pod(node: str) -> RawObject:
    pod = a_pod(f"other-on-{node}", node=node)
    pod["spec"]["containers"] = [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}]
    return pod


def stopped_order(pod: RawObject) -> tuple[bool, bool, int, str]:
    """Unbound ones first, then those not ready, then by cost, then the youngest (kubernetes, ActivePodsWithRanks)."""
    cost = int(pod["metadata"]["annotations"].get(DELETION_COST) or 0)
    youngest = "".join(chr(255 - ord(letter)) for letter in pod["metadata"]["creationTimestamp"])
    return bool(pod["spec"].get("nodeName")), is_ready(pod), cost, youngest
