"""To zero and back: when the activator stands in, what it is told, and when nothing goes to zero."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import NOON, SETTINGS, a_flash, a_gate, a_live_deployment, a_load, a_node, a_pod, an_observed, condition
from flash_contracts.activation import FIRST_PORT, PORTS
from flash_contracts.names import FIELD_MANAGER, QUARANTINE_ANNOTATION
from flash_operator.core.observed.activator import ActivatorView, Waiting
from flash_operator.core.observed.scalers import HPA, SCALED_OBJECT, Scalers
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import Plan, plan
from flash_operator.core.replicas.replica import replicas_of
from flash_operator.core.scaling.activation import HANDOVER_SECONDS, SLICE, choose_port, port_of
from flash_operator.core.scaling.decision import decide_scaler
from flash_operator.core.scaling.demand import DemandBasis, demand_basis
from flash_operator.core.scaling.scaler import scaled_object

PORT = 20007
TO_ZERO = {"minReplicas": 0, "maxReplicas": 3}
WITH_URL = replace(SETTINGS, demand_url="http://flash-metrics.system.svc:8080")
AWAKE, ASLEEP = Waiting(), Waiting(recent=True)
READY = a_pod("a", ready=True, podIP="10.1.0.7")
LOST = Waiting(lost=True)


def a_flash_at_zero(replicas: int = 0, **scaling: Any) -> Any:
    """Four sequences at 75 %: three requests are one replica."""
    return a_flash(replicas=replicas, scaling={**TO_ZERO, **scaling}, engine={"maxSequences": 4})


def seen(
    replicas: int = 0,
    *pods: RawObject,
    waiting: Waiting | None = AWAKE,
    addresses: tuple[str, ...] = ("10.0.0.1", "10.0.0.2"),
    port: int | None = PORT,
    installed: bool = True,
    children: tuple[RawObject, ...] = (),
    **scaling: Any,
) -> Observed:
    flash = a_flash_at_zero(replicas, **scaling)
    made = scaled_object(flash, flash.spec.scaling, WITH_URL.demand_url, to_zero=installed and port is not None)
    status = {"conditions": [{"type": "Ready", "status": "True", "reason": "ScaledObjectReady"}]}
    live = {**made, "metadata": {**made["metadata"], "uid": "uid-of-scaler"}, "status": status}
    observed = an_observed(
        flash,
        pods=pods,
        nodes=(a_node(),),
        gates={pod["metadata"]["name"]: a_gate() for pod in pods},
        loads={"a": a_load()},
        children=(a_live_deployment(flash), *children),
        scalers=Scalers("Present", (live,)),
        settings=WITH_URL,
    )
    return replace(observed, activator=ActivatorView(addresses, port, waiting) if installed else None)


def a_live_slice(name: str = "flash-activator", owner: str = "uid-of-flash") -> RawObject:
    metadata = {"name": name, "namespace": "team", "uid": f"uid-of-{name}", "ownerReferences": [{"uid": owner}]}
    return {"kind": SLICE, "metadata": metadata, "ports": [{"port": PORT}], "endpoints": [{"addresses": ["10.0.0.9"]}]}


def handing_over(seconds: float, *, node_clock: float = 0.0) -> Observed:
    """The activator is in the Service, and the operator has seen a replica ready for so long."""
    pod = a_pod("a", ready=True, podIP="10.1.0.7")
    by_node = NOON + timedelta(seconds=node_clock - seconds)
    pod["status"]["conditions"][0]["lastTransitionTime"] = by_node.isoformat()
    return replace(seen(1, pod, children=(a_live_slice(),)), ready_seconds={"uid-of-a": seconds})


def slice_of(planned: Plan) -> RawObject | None:
    return next((child for child in planned.apply if child["kind"] == SLICE), None)


def addresses(made: RawObject | None) -> list[str]:
    assert made is not None
    return [address for endpoint in made["endpoints"] for address in endpoint["addresses"]]


QUARANTINED = a_pod("a", ready=True, podIP="10.1.0.7")
QUARANTINED["metadata"]["annotations"][QUARANTINE_ANNOTATION] = "then"


@pytest.mark.parametrize(
    ("observed", "receives_requests"),
    [
        (seen(0), True),
        (seen(0, READY), True),
        (seen(1), True),
        (seen(1, a_pod("a")), True),
        (seen(1, READY), False),
        (seen(2, READY, a_pod("b")), False),
        (seen(1, READY, children=(a_live_slice(),)), True),
        (handing_over(2), True),
        (handing_over(6), False),
    ],
    ids=[
        "at zero",
        "the last replica is about to stop",
        "waking",
        "loading",
        "one serves",
        "one of two serves",
        "one serves, which is the first that the operator sees",
        "one serves, which kube-proxy may not know yet",
        "one serves for a while",
    ],
)
def test_the_activator_is_in_the_service_while_no_replica_serves(
    observed: Observed, *, receives_requests: bool
) -> None:
    made = slice_of(plan(observed))
    assert addresses(made) == (["10.0.0.1", "10.0.0.2"] if receives_requests else [])


def test_it_leaves_the_service_a_few_seconds_after_a_replica_is_ready() -> None:
    assert plan(handing_over(2)).requeue_after == HANDOVER_SECONDS - 2
    again = plan(handing_over(6)).requeue_after
    assert again is None or again > HANDOVER_SECONDS


@pytest.mark.parametrize("node_clock", [-3600.0, -10.0, 0.0, 10.0, 3600.0])
def test_the_clock_of_the_node_does_not_change_that(node_clock: float) -> None:
    assert plan(handing_over(1, node_clock=node_clock)).requeue_after == HANDOVER_SECONDS - 1
    assert addresses(slice_of(plan(handing_over(6, node_clock=node_clock)))) == []


def test_an_operator_that_starts_does_not_put_it_back() -> None:
    """It sees every replica for the first time."""
    left = {**a_live_slice(), "endpoints": []}
    assert addresses(slice_of(plan(seen(1, READY, children=(left,))))) == []


def test_its_slice_belongs_to_the_service_and_is_left_alone_by_kubernetes() -> None:
    made = slice_of(plan(seen(0)))
    assert made is not None
    labels = made["metadata"]["labels"]
    assert labels["kubernetes.io/service-name"] == "flash"
    assert labels["endpointslice.kubernetes.io/managed-by"] == FIELD_MANAGER
    assert made["metadata"]["ownerReferences"][0]["uid"] == "uid-of-flash"
    assert made["ports"] == [{"name": "http", "port": PORT, "protocol": "TCP"}]
    service = next(child for child in plan(seen(0)).apply if child["kind"] == "Service")
    assert [port["name"] for port in service["spec"]["ports"]] == ["http"], "kube-proxy puts ports together by name"


def test_an_address_of_the_other_family_has_a_slice_of_its_own() -> None:
    made = slice_of(plan(seen(0, addresses=("fd00::1",))))
    assert made is not None
    assert (made["addressType"], made["metadata"]["name"]) == ("IPv6", "flash-activator-ipv6")


@pytest.mark.parametrize("observed", [seen(1, READY, installed=False), seen(1, READY, port=None)], ids=["gone", "full"])
def test_an_address_behind_which_nobody_is_does_not_stay_in_the_service(observed: Observed) -> None:
    left, foreign = a_live_slice(), a_live_slice("theirs", owner="somebody")
    children = {**observed.children, (SLICE, "flash-activator"): left, (SLICE, "theirs"): foreign}
    planned = plan(replace(observed, children=children))
    assert [(ref.kind, ref.name, ref.uid) for ref in planned.delete] == [
        (SLICE, "flash-activator", "uid-of-flash-activator")
    ]


def test_a_deployment_that_keeps_a_replica_has_no_slice_and_no_route() -> None:
    observed = replace(seen(1, READY), flash=a_flash(scaling={"maxReplicas": 3}))
    assert slice_of(plan(observed)) is None
    assert plan(observed).route is None


def test_the_activator_is_told_the_replicas_that_serve() -> None:
    route = plan(seen(2, READY, a_pod("b", podIP="10.1.0.8"), idle={"holdSeconds": 90})).route
    assert route is not None
    assert (route.namespace, route.name, route.port) == ("team", "flash", PORT)
    assert (route.endpoints, route.hold_seconds) == (("10.1.0.7:8000",), 90.0)
    stopping = plan(seen(0, READY)).route
    assert stopping is not None
    assert stopping.endpoints == (), "the last one is about to stop"
    other = plan(seen(1, a_pod("a", ready=True, podIP="fd00::7"))).route
    assert other is not None
    assert other.endpoints == ("[fd00::7]:8000",)


TARGETS: dict[str, tuple[Observed, float | None]] = {
    "at zero, and nothing waits": (seen(0), 0.0),
    "at zero, and one waits": (seen(0, waiting=Waiting(1)), 1.0),
    "at zero, and many wait": (seen(0, waiting=Waiting(6)), 2.0),
    "at zero, and one waited a moment ago": (seen(0, waiting=ASLEEP), 1.0),
    "at zero, and nobody was asked yet": (seen(0, waiting=None), None),
    "at zero, and no activator answers": (seen(0, waiting=LOST), 1.0),
    "waking": (seen(1, waiting=Waiting(1)), 1.0),
    "waking, for more than one replica can take": (seen(1, waiting=Waiting(20)), 5.667),
    "waking, and those that waited have left": (seen(1), 1.0),
    "one serves and is idle": (seen(1, READY), 0.0),
    "one serves, and nobody was asked yet": (seen(1, READY, waiting=None), 1.0),
    "one serves, and no activator answers": (seen(1, READY, waiting=LOST), 1.0),
    "the only one failed": (seen(1, a_pod("b")), None),
}


@pytest.mark.parametrize(("observed", "target"), TARGETS.values(), ids=TARGETS)
def test_what_autoscalers_follow(observed: Observed, target: float | None) -> None:
    if observed.pods and observed.pods[0]["metadata"]["name"] == "b":
        observed = replace(observed, gates={"uid-of-b": a_gate("TooSlow")})
    replicas = replicas_of(observed)
    waiting = observed.activator.waiting if observed.activator else None
    assert demand_basis(observed, replicas).demand(observed.loads, waiting).target_replicas == target


@given(
    wanted=st.integers(0, 3),
    loading=st.integers(0, 3),
    requests=st.integers(0, 100),
    waiting=st.none() | st.builds(Waiting, st.integers(0, 100), st.booleans(), st.booleans()),
    to_zero=st.booleans(),
)
def test_only_a_known_demand_of_nothing_stops_the_last_replica(
    wanted: int, loading: int, requests: int, waiting: Waiting | None, *, to_zero: bool
) -> None:
    ready = ("a",) if wanted else ()
    basis = DemandBasis("team", "flash", wanted, loading, ready, 4, 75, to_zero=to_zero)
    target = basis.demand({"a": a_load(requests)}, waiting).target_replicas
    if target == 0.0:
        assert not requests or not wanted
        if to_zero:
            assert waiting is not None
            assert not waiting.lost
            assert not (waiting.wakes and not wanted)


def test_an_activator_is_nothing_to_a_deployment_that_keeps_a_replica() -> None:
    basis = DemandBasis("team", "flash", 0, 0, (), 4, 75)
    assert basis.demand({}, Waiting(5)).target_replicas is None


def test_the_scaled_object_goes_to_zero_only_with_an_activator() -> None:
    flash = a_flash_at_zero(idle={"afterSeconds": 900})
    spec = scaled_object(flash, flash.spec.scaling, "u", to_zero=True)["spec"]
    assert (spec["minReplicaCount"], spec["pollingInterval"]) == (0, 5)
    assert (spec["cooldownPeriod"], spec["initialCooldownPeriod"]) == (900, 900)
    assert "fallback" not in spec, "KEDA would start what sleeps while it cannot read the demand"
    assert spec["triggers"][0]["metadata"]["activationTargetValue"] == "0"
    kept = scaled_object(flash, flash.spec.scaling, "u")["spec"]
    assert (kept["minReplicaCount"], kept["fallback"]["replicas"]) == (1, 1)


@pytest.mark.parametrize("missing", [{"installed": False}, {"port": None}], ids=["none", "full"])
def test_without_an_activator_one_replica_is_kept(missing: dict[str, Any]) -> None:
    observed = seen(0, **missing)
    applied = decide_scaler(replace(observed, scalers=Scalers("Present"))).apply
    assert applied is not None
    assert (applied["kind"], applied["spec"]["minReplicaCount"]) == (SCALED_OBJECT, 1)


def test_without_keda_no_hpa_takes_its_place() -> None:
    decision = decide_scaler(replace(seen(0), scalers=Scalers("Absent")))
    assert decision.apply is None
    assert decision.problem is not None
    assert decision.problem.reason == "KedaMissing"


STATES: dict[str, tuple[Observed, str, str, str]] = {
    "at zero": (seen(0), "True", "ScaledToZero", "http://flash.team.svc:8000/v1"),
    "not installed": (seen(0, installed=False), "False", "ActivatorMissing", "activator.enabled"),
    "full": (seen(1, READY, port=None), "False", "ActivatorFull", "ports"),
    "silent": (seen(1, READY, waiting=LOST), "False", "ActivatorSilent", "8080"),
    "none is ready": (seen(0, addresses=()), "False", "ActivatorNotReady", "no activator is ready"),
    "awake": (seen(1, READY), "True", "ScalerActive", "from 0 to 3"),
}


@pytest.mark.parametrize(("observed", "status", "reason", "words"), STATES.values(), ids=STATES)
def test_the_condition_says_what_wakes_it(observed: Observed, status: str, reason: str, words: str) -> None:
    told = condition(plan(observed).status, "ScalingActive")
    assert (told["status"], told["reason"]) == (status, reason)
    assert words in told["message"]


def test_one_that_is_paused_at_zero_does_not_promise_to_wake() -> None:
    observed = seen(0)
    assert observed.scalers is not None
    (scaler,) = observed.scalers.found
    paused = {**scaler, "status": {"conditions": [{"type": "Paused", "status": "True"}]}}
    status = plan(replace(observed, scalers=Scalers("Present", (paused,)))).status
    assert condition(status, "ScalingActive")["reason"] == "ScalerPaused"
    assert condition(status, "Ready")["message"] == "spec.replicas is 0"


def test_ready_says_so_too() -> None:
    told = condition(plan(seen(0)).status, "Ready")
    assert (told["reason"], told["message"]) == (
        "ScaledToZero",
        "spec.replicas is 0; the next request starts a replica",
    )


def test_a_moment_after_zero_the_hpa_that_has_not_looked_yet_is_no_problem() -> None:
    observed = seen(1, READY)
    assert observed.scalers is not None
    metadata = {"name": "keda-hpa-flash", "namespace": "team", "ownerReferences": [{"uid": "uid-of-scaler"}]}
    idle = {"type": "ScalingActive", "status": "False", "reason": "ScalingDisabled"}
    hpa = {"kind": HPA, "metadata": metadata, "status": {"conditions": [idle]}}
    scalers = Scalers("Present", (*observed.scalers.found, hpa))
    told = condition(plan(replace(observed, scalers=scalers)).status, "ScalingActive")
    assert told["reason"] == "ScalerActive"


@given(st.text(min_size=1), st.frozensets(st.integers(FIRST_PORT, FIRST_PORT + PORTS - 1)))
def test_a_port_is_nobody_elses(uid: str, taken: frozenset[int]) -> None:
    found = choose_port(uid, taken)
    assert found is not None
    assert found not in taken
    assert FIRST_PORT <= found < FIRST_PORT + PORTS
    assert choose_port(uid, taken) == found


def test_when_all_ports_are_taken_there_is_none() -> None:
    assert choose_port("uid", range(FIRST_PORT, FIRST_PORT + PORTS)) is None


@pytest.mark.parametrize("ports", [None, [], [{}], [{"port": 80}], [{"port": "x"}], ["x"]])
def test_a_slice_that_somebody_edited_has_no_port(ports: Any) -> None:
    assert port_of({"ports": ports}) is None
