"""A real KEDA scales a deployment by the operator's demand while users send requests. The engines are stubs."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_fixtures import LocalCluster
from direct_http import WITHOUT_PROXY
from e2e_env import OPERATOR_NAMESPACE, RELEASE, Flash, apply, get_json, operator_pods, wait_until
from engine_stubs import engine_stub_program, stub_spec
from flash_contracts.names import API_VERSION, KIND
from keda import Keda
from metrics_adapter import MetricsAdapter
from prometheus import Prometheus
from replica_timeline import ReplicaTimeline
from service_load import Client, Load

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

MakeFlash = Callable[..., Flash]

SCALING = {"by": "Keda", "minReplicas": 1, "maxReplicas": 6, "scaleDownPeriodSeconds": 15}
"""Three requests are the demand of one replica: 75 percent of the four sequences of examples/tiny.yaml."""

LEAST_WINDOW = 15
HPA_SYNC_SECONDS = 2
"""Of the local cluster's HPA controller."""
MANY_FAILURES = 10
"""Readings by the HPA that fail, each of which would scale down if it were read as 0."""

SHORT, LONGER = (8, 40), (200, 400)
"""Tokens of requests that take a tenth of a second, and of those that take half a second to a whole one."""


def users(number: int, tokens: tuple[int, int] = SHORT) -> tuple[Client, ...]:
    """So many, the first of whom keeps its connection."""
    return tuple(Client(f"user {user} of {number}", tokens, keeps_connection=user == 0) for user in range(number))


@pytest.fixture
def keda(e2e_env: LocalCluster) -> Iterator[Keda]:
    keda = Keda(e2e_env)
    yield keda
    keda.remove()


@pytest.fixture
def window() -> int:
    """Seconds for which the demand must be higher or lower. A replica loads for longer."""
    return LEAST_WINDOW


@pytest.fixture
def applied(e2e_env: LocalCluster, keda: Keda, namespace: str, tiny: MakeFlash, window: int) -> Flash:
    """A deployment whose replica loads, and no KEDA yet."""
    del keda  # it is removed after the namespace
    apply(e2e_env, engine_stub_program(namespace))
    return tiny(**stub_spec(f"loading:seconds={window + 5}"), scaling=scaling(window))


def scaling(window: int) -> dict[str, Any]:
    return {**SCALING, "scaleUpStabilizationSeconds": window, "scaleDownStabilizationSeconds": window}


@pytest.fixture
def scaled(applied: Flash) -> Flash:
    """One replica that serves, and no KEDA yet."""
    applied.wait_for("Ready", "True", "Passed", seconds=180)
    return applied


def demand_of(flash: Flash) -> dict[str, Any]:
    """What the operator answers to KEDA."""
    service = get_json(flash.cluster, "service", f"{RELEASE}-metrics", "-n", OPERATOR_NAMESPACE)
    url = f"http://{service['spec']['clusterIP']}:8080/demand/{flash.namespace}/{flash.name}"
    with WITHOUT_PROXY.open(urllib.request.Request(url), timeout=10) as answer:
        report: dict[str, Any] = json.load(answer)
    return report


def serve(flash: Flash, replicas: int) -> bool:
    return len(flash.endpoints()) == replicas and flash.object()["spec"]["replicas"] == replicas


def scaled_object(flash: Flash) -> dict[str, Any]:
    return get_json(flash.cluster, "scaledobject", flash.name, "-n", flash.namespace)


@pytest.mark.parametrize(
    ("window", "tokens", "least"),
    [(LEAST_WINDOW, LONGER, 40), pytest.param(60, SHORT, 5000, marks=[pytest.mark.long, pytest.mark.alone])],
    ids=["beside other tests", "thousands of requests"],
)
def test_load_takes_it_from_one_replica_to_three_and_back_and_no_request_fails(
    keda: Keda, applied: Flash, window: int, tokens: tuple[int, int], least: int
) -> None:
    missing = applied.wait_for("ScalingActive", "False", "KedaMissing", seconds=60)
    assert "install KEDA" in missing["message"]
    keda.start()
    applied.wait_for("Ready", "True", "Passed", seconds=240)
    look_at(applied)

    with ReplicaTimeline(applied) as timeline, Load(applied.address(), "tiny", users(2, tokens)) as few:
        with Load(applied.address(), "tiny", users(6, tokens)) as many:
            wait_until(lambda: timeline.wanted == 3, "KEDA wants three replicas", seconds=240)
            with Load(applied.address(), "tiny", users(4, tokens)) as peak:
                more_demand_than_what_loads_is_for(applied, window)
            wait_until(lambda: serve(applied, 3), "three replicas serve", seconds=120)
            many.story = "with three replicas"
            wait_until(lambda: many.answered[many.story] >= least, "they are used for a while", seconds=300)
            assert goes_up_to_three(timeline), "no more replicas while some load, nor by chance"
        wait_until(lambda: serve(applied, 1), "the demand falls, and one replica is left", seconds=240)

    assert timeline.most == 3
    assert few.failed == many.failed == peak.failed == []
    applied.wait_for("ScalingActive", "True", "ScalerActive", seconds=60)
    print(f"{few.total + many.total + peak.total} requests answered")


def more_demand_than_what_loads_is_for(flash: Flash, window: int) -> None:
    """For so long that an autoscaler which follows the demand itself starts a fourth replica."""
    guarded = wait_until(lambda: beyond_what_loads(flash), "more demand while replicas load", seconds=60)
    assert guarded["targetReplicas"] < guarded["demandReplicas"]
    time.sleep(window + HPA_SYNC_SECONDS)
    assert demand_of(flash)["loading"] >= 1, "a replica loads all that time"


def look_at(flash: Flash) -> None:
    """Lets the operator look now: it looks at autoscalers every 30 s, and when a deployment changes."""
    flash.cluster.kubectl("annotate", "dsf", flash.name, "-n", flash.namespace, "example.org/note=KEDA is installed")


def goes_up_to_three(timeline: ReplicaTimeline) -> bool:
    """At once, or by two if one reading of the window missed some users: the HPA takes the lowest."""
    return timeline.numbers in ([1, 3], [1, 2, 3])


def beyond_what_loads(flash: Flash) -> dict[str, Any] | None:
    """More demand than three replicas are for, while a replica loads."""
    report = demand_of(flash)
    return report if report["loading"] >= 1 and (report["demandReplicas"] or 0) > 3.1 else None


def scale_operator(cluster: LocalCluster, replicas: int) -> None:
    cluster.kubectl("scale", f"deployment/{RELEASE}", "-n", OPERATOR_NAMESPACE, f"--replicas={replicas}")


@pytest.fixture
def mortal_operator(e2e_env: LocalCluster) -> Iterator[LocalCluster]:
    """Restored afterwards in any case."""
    yield e2e_env
    scale_operator(e2e_env, 1)


def failed_readings(flash: Flash) -> int:
    """How often in a row KEDA could not read the demand."""
    health: dict[str, Any] = scaled_object(flash).get("status", {}).get("health", {})
    return max((metric.get("numberOfFailures", 0) for metric in health.values()), default=0)


@pytest.mark.long
@pytest.mark.alone
def test_a_scaled_object_that_is_deleted_by_hand_is_made_again(keda: Keda, scaled: Flash) -> None:
    keda.start()
    scaled.wait_for("ScalingActive", "True", "ScalerActive", seconds=120)
    before = scaled_object(scaled)["metadata"]["uid"]
    scaled.cluster.kubectl("delete", "scaledobject", scaled.name, "-n", scaled.namespace)

    wait_until(lambda: made_again(scaled, before), "there is another one", seconds=90)
    scaled.wait_for("ScalingActive", "True", "ScalerActive", seconds=120)
    events = get_json(scaled.cluster, "events", "-n", scaled.namespace)["items"]
    assert "ScalerRecreated" in {event["reason"] for event in events}


def made_again(flash: Flash, before: str) -> bool:
    found = get_json(flash.cluster, "scaledobjects", "-n", flash.namespace)["items"]
    return bool(found) and found[0]["metadata"]["uid"] != before


@pytest.mark.long
@pytest.mark.alone
def test_while_the_operator_is_dead_nothing_is_scaled_down(
    keda: Keda, scaled: Flash, mortal_operator: LocalCluster
) -> None:
    keda.start()
    scaled.wait_for("ScalingActive", "True", "ScalerActive", seconds=120)
    with Load(scaled.address(), "tiny", users(8)) as load:
        wait_until(lambda: serve(scaled, 3), "three replicas serve", seconds=240)
        scale_operator(mortal_operator, 0)
        wait_until(lambda: not operator_pods(mortal_operator), "the operator is gone", seconds=60)
    # The load is gone too, but nobody knows.
    with ReplicaTimeline(scaled) as timeline:
        wait_until(lambda: failed_readings(scaled) >= MANY_FAILURES, "KEDA has asked in vain", seconds=180)
        assert serve(scaled, 3)
        fallback = {c["type"]: c["status"] for c in scaled_object(scaled)["status"]["conditions"]}["Fallback"]
        assert fallback == "True"
        assert timeline.numbers == [3]
        scale_operator(mortal_operator, 1)
        wait_until(lambda: timeline.wanted in (1, 2), "once it is back, the demand is known to be lower", seconds=180)
    assert load.failed == []


@pytest.mark.long
@pytest.mark.alone
def test_with_source_prometheus_load_scales_it_and_nothing_does_while_prometheus_is_dead(
    e2e_env: LocalCluster, keda: Keda, scaled: Flash, tmp_path: Path
) -> None:
    prometheus = Prometheus(e2e_env, tmp_path)
    source = {"source": "Prometheus", "prometheus": {"address": prometheus.address}}
    patch = json.dumps({"spec": {"scaling": source}})
    scaled.cluster.kubectl("patch", "dsf", scaled.name, "-n", scaled.namespace, "--type=merge", "-p", patch)
    keda.start()
    with ReplicaTimeline(scaled) as timeline:
        with prometheus, Load(scaled.address(), "tiny", users(2)) as few:
            scaled.wait_for("ScalingActive", "True", "ScalerActive", seconds=120)
            with Load(scaled.address(), "tiny", users(6)) as many:
                wait_until(lambda: serve(scaled, 3), "three replicas serve", seconds=240)
        wait_until(lambda: failed_readings(scaled) >= MANY_FAILURES, "KEDA has asked in vain", seconds=180)
        assert goes_up_to_three(timeline), "no more while replicas load, and no fewer without an answer"
        scaled.wait_for("ScalingActive", "False", "MetricsMissing", seconds=60)
        with prometheus:
            wait_until(lambda: serve(scaled, 1), "the demand is known again", seconds=300)
    assert few.failed == many.failed == []


@pytest.mark.long
@pytest.mark.alone
def test_without_the_guard_a_burst_while_replicas_load_starts_too_many(
    e2e_env: LocalCluster, keda: Keda, namespace: str, tiny: MakeFlash
) -> None:
    """The control: a ScaledObject of a user's that follows the demand itself."""
    keda.start()
    apply(e2e_env, engine_stub_program(namespace))
    flash = tiny(**stub_spec(f"loading:seconds={LEAST_WINDOW}"))
    flash.wait_for("Ready", "True", "Passed", seconds=180)
    apply(e2e_env, unguarded(flash))
    with ReplicaTimeline(flash) as timeline, Load(flash.address(), "tiny", users(8)) as load:
        wait_until(lambda: timeline.most >= 3, "KEDA wants three replicas", seconds=240)
        with Load(flash.address(), "tiny", users(4)) as peak:
            wait_until(lambda: timeline.most > 3, "a fourth one is started", seconds=120)
            assert demand_of(flash)["loading"] > 0
    assert load.failed == peak.failed == []


def unguarded(flash: Flash) -> dict[str, Any]:
    url = f"http://{RELEASE}-metrics.{OPERATOR_NAMESPACE}.svc:8080/demand/{flash.namespace}/{flash.name}"
    trigger = {"url": url, "valueLocation": "demandReplicas", "targetValue": "1"}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "unguarded", "namespace": flash.namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": API_VERSION, "kind": KIND, "name": flash.name},
            "minReplicaCount": 1,
            "maxReplicaCount": SCALING["maxReplicas"],
            "triggers": [{"type": "metrics-api", "metricType": "AverageValue", "metadata": trigger}],
        },
    }


@pytest.mark.long
@pytest.mark.alone
def test_an_hpa_follows_the_metrics_of_the_operator_and_keeps_replicas_without_them(
    e2e_env: LocalCluster, namespace: str, tiny: MakeFlash
) -> None:
    apply(e2e_env, engine_stub_program(namespace))
    flash = tiny(**stub_spec(), scaling={**scaling(LEAST_WINDOW), "by": "Hpa"})
    flash.wait_for("Ready", "True", "Passed", seconds=180)
    found = flash.wait_for("ScalingActive", "False", "MetricsMissing", seconds=120)
    assert "a metrics adapter must serve the metric" in found["message"]
    with ReplicaTimeline(flash) as timeline:
        with Load(flash.address(), "tiny", users(8)) as load:
            with MetricsAdapter(e2e_env):
                flash.wait_for("ScalingActive", "True", "ScalerActive", seconds=120)
                wait_until(lambda: serve(flash, 3), "three replicas serve", seconds=240)
            flash.wait_for("ScalingActive", "False", "MetricsMissing", seconds=120)
        assert timeline.wanted == 3, "nobody uses it any more, and nobody can tell the HPA"
        with MetricsAdapter(e2e_env):
            wait_until(lambda: timeline.wanted in (1, 2), "the demand is known again", seconds=180)
    assert load.failed == []
