"""The planner in a modelled cluster: whatever happens, it converges, and never takes what it must not take."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from builders import condition
from flash_operator.core.observed.kube import is_ready, is_terminating
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import Plan, plan
from flash_operator.core.resources.deployment import SUCCESSOR_ANNOTATION, SURGE
from flash_operator.core.resources.revision import revision_of_pod
from planned_cluster import BROKEN_TOKENS, NODES, SLOW_TOKENS, PlannedCluster, image, planned, speed_of
from state_machines import play_long, play_short

MOST_PLANS = 6
"""Until nothing is left to do at one moment: a decision is written to the status before it is carried out."""
ROUNDS = 120
"""Half an hour: longer than a successor may be stuck, and than each of four replicas may take to be replaced."""

QUIET_ROUNDS = 4


class PlannerModel(RuleBasedStateMachine):
    """Events of the cluster, and plans that are carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = PlannedCluster()
        self.asked = True
        """The user has asked for something that replaces replicas."""

    def teardown(self) -> None:
        self.settle()

    @rule(tokens=st.sampled_from([4096, 8192, SLOW_TOKENS, BROKEN_TOKENS]))
    def user_changes_the_template(self, tokens: int) -> None:
        self.cluster.edit(engine={"contextTokens": tokens})
        self.asked = True

    @rule(replicas=st.integers(1, 3))
    def user_scales(self, replicas: int) -> None:
        self.cluster.edit(replicas=replicas)

    @rule(state=st.sampled_from(["Active", "Paused"]))
    def user_pauses_or_goes_on(self, state: str) -> None:
        self.cluster.edit_rollout(state=state)

    @rule(updates=st.sampled_from(["Manual", "Paced"]))
    def user_takes_updates_in_turn_or_by_hand(self, updates: str) -> None:
        self.cluster.edit_rollout(engineUpdates=updates)
        self.asked = True

    @precondition(lambda self: self.cluster.status.get("update", {}).get("revision"))
    @rule()
    def user_accepts_the_update(self) -> None:
        self.cluster.edit_rollout(acceptUpdate=self.cluster.status["update"]["revision"])
        self.asked = True

    @rule(number=st.integers(1, 4))
    def operator_is_upgraded(self, number: int) -> None:
        self.cluster.settings = type(self.cluster.settings)(image(number), self.cluster.settings.quantiser_image)

    @rule(name=st.sampled_from(NODES))
    def node_goes(self, name: str) -> None:
        self.cluster.lose_node(name)

    @rule(name=st.sampled_from(NODES), p2p=st.sampled_from(["verified", "broken"]))
    def node_is_relabelled(self, name: str, p2p: str) -> None:
        self.cluster.relabel(name, p2p)

    @rule(names=st.sets(st.sampled_from(NODES)))
    def another_tenant_has_nodes(self, names: set[str]) -> None:
        used = {pod["spec"].get("nodeName") for pod in self.cluster.pods}
        self.cluster.taken = names - used

    @rule()
    def another_tenant_takes_all_that_is_free(self) -> None:
        self.another_tenant_has_nodes(set(NODES))

    @rule(which=st.integers(0, 3), how=st.sampled_from(["degraded", "silent"]))
    def replica_suffers(self, which: int, how: str) -> None:
        ready = [pod for pod in self.cluster.pods if is_ready(pod)]
        for pod in ready[which : which + 1]:
            getattr(self.cluster, how).add(pod["metadata"]["uid"])

    @rule()
    def replicas_recover(self) -> None:
        self.cluster.degraded, self.cluster.silent = set(), set()

    @rule(rounds=st.integers(1, 8))
    def time_passes(self, rounds: int) -> None:
        for _ in range(rounds):
            self.reconcile()
            self.cluster.pass_round()

    @rule()
    def nothing_is_left_to_do(self) -> None:
        """Plans that follow each other at once come to an end."""
        for _ in range(MOST_PLANS):
            wanted = self.reconcile()
            if is_empty(wanted):
                return
        raise AssertionError(f"still something to do: {wanted}")

    @rule()
    def settle(self) -> None:
        """With everything in order, and time: all replicas run one template, and the status says how they are."""
        cluster = self.cluster
        cluster.heal()
        cluster.edit_rollout(state="Active")
        quiet = 0
        for _ in range(ROUNDS):
            quiet = quiet + 1 if is_empty(self.reconcile()) and all(map(is_ready, cluster.pods)) else 0
            if quiet > QUIET_ROUNDS:
                break
            cluster.pass_round()
        self.nothing_is_left_to_do()
        self.everything_runs()
        rollout = cluster.raw["spec"].get("rollout", {})
        self.asked = rollout.get("engineUpdates") == "Paced" or bool(rollout.get("acceptUpdate"))

    @rule(tokens=st.sampled_from([4096, SLOW_TOKENS]))
    def user_changes_the_template_where_no_node_is_free(self, tokens: int) -> None:
        self.another_tenant_takes_all_that_is_free()
        self.user_changes_the_template(tokens)
        self.time_passes(2)

    @rule(replicas=st.integers(1, 3))
    def every_replica_degrades(self, replicas: int) -> None:
        self.user_scales(replicas)
        self.time_passes(6)
        self.cluster.degraded = {pod["metadata"]["uid"] for pod in self.cluster.pods}
        self.time_passes(2)

    def everything_runs(self) -> None:
        cluster, made = self.cluster, self.cluster.deployment
        assert made is not None
        wanted = cluster.raw["spec"]["replicas"]
        assert made["spec"]["replicas"] == wanted
        ready = sum(map(is_ready, cluster.pods))
        assert (cluster.status.get("readyReplicas", 0), len(cluster.pods)) == (ready, wanted)
        if speed_of(made["spec"]["template"]) is None:
            # There is no other template to go back to, and the Deployment keeps what is left of an older one.
            assert condition(cluster.status, "Ready")["status"] == "False"
            return
        revisions = [revision_of_pod(pod) for pod in cluster.pods]
        assert revisions == [template_of(made)] * wanted
        assert ready == wanted
        assert condition(cluster.status, "Available")["status"] == "True"

    def reconcile(self) -> Plan:
        """One plan, with all that a plan must keep to."""
        observed, wanted = planned(self.cluster)
        assert is_empty(wanted) or plan(observed) == wanted, "it depends on something else than what was observed"
        before = self.cluster.deployment
        served = len(self.cluster.in_service())
        self.keeps_the_template(before, wanted)
        self.has_room_for_a_surge(before, wanted)
        self.cluster.carry_out(wanted)
        # Of a single replica without room for another, the user who takes the update gives up the service.
        may_take_the_last = wanted.evict and self.cluster.raw["spec"]["replicas"] == 1
        assert self.cluster.in_service() or not served or may_take_the_last, "the last ready replica was taken"
        return wanted

    def keeps_the_template(self, before: RawObject | None, wanted: Plan) -> None:
        """Neither an upgrade of the operator nor labels of nodes replace a replica that nobody asked to replace."""
        if self.asked or before is None:
            return
        made = [child for child in wanted.apply if child["kind"] == "Deployment"]
        assert all(template_of(child) == template_of(before) for child in made)
        assert wanted.evict == ()

    def has_room_for_a_surge(self, before: RawObject | None, wanted: Plan) -> None:
        for child in wanted.apply:
            if child["kind"] == "Deployment" and before is not None and begins_surge(before, child):
                alive = [pod for pod in self.cluster.pods if not is_terminating(pod)]
                assert self.cluster.has_room_for(min(len(alive), child["spec"]["replicas"]) + 1)


def is_empty(wanted: Plan) -> bool:
    return not (wanted.apply or wanted.annotate or wanted.delete or wanted.evict or wanted.verdicts or wanted.status)


def template_of(made: RawObject) -> str | None:
    return revision_of_pod(made["spec"]["template"])


def begins_surge(before: RawObject, after: RawObject) -> bool:
    had, has = (
        SUCCESSOR_ANNOTATION in (made["metadata"].get("annotations") or {})
        or (made["spec"]["strategy"]["rollingUpdate"] == SURGE and template_of(before) != template_of(after))
        for made in (before, after)
    )
    return has and not had


def test_the_planner_converges() -> None:
    play_short(PlannerModel, examples=10, steps=20)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_planner_converges_from_many_states() -> None:
    play_long(PlannerModel, examples=1000, steps=40)
