"""Replicas that fail while they serve. The engines are stubs; everything that detects and acts is real."""

import re
from collections.abc import Callable

import pytest

from cluster_fixtures import LocalCluster
from e2e_env import Flash, apply, wait_until
from engine_stubs import engine_stub_program, play, stub_spec, too_slow
from service_load import Client, Load

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

MakeFlash = Callable[..., Flash]

LIVENESS_FAILURES = 6
"""So many failures in a row make the kubelet restart the container."""

USERS = tuple(Client(f"user {number}", (100, 300)) for number in range(3))


@pytest.fixture
def program(e2e_env: LocalCluster, namespace: str) -> None:
    apply(e2e_env, engine_stub_program(namespace))


def engine_restarts(flash: Flash) -> dict[str, int]:
    return {
        pod["metadata"]["name"]: status["restartCount"]
        for pod in flash.pods()
        for status in pod["status"].get("containerStatuses", [])
    }


def failed_liveness_probes(cluster: LocalCluster, namespace: str) -> float:
    """Restarts of the engines in a namespace by the kubelet's count, because it drops events above 25 for a pod."""
    page = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{cluster.node_name}/proxy/metrics/probes").stdout
    wanted = {f'namespace="{namespace}"', 'container="engine"', 'probe_type="Liveness"', 'result="failed"'}
    samples = re.findall(r"^prober_probe_total\{(.*)\} (\S+)$", page, re.MULTILINE)
    return sum(float(value) for labels, value in samples if wanted <= set(labels.split(",")))


def quarantines(flash: Flash) -> dict[str, str | None]:
    return {pod["name"]: pod.get("quarantine") for pod in flash.status()["pods"]}


@pytest.mark.usefixtures("program")
def test_a_hung_replica_is_not_ready_at_once_and_restarted_by_the_kubelet(
    e2e_env: LocalCluster, tiny: MakeFlash
) -> None:
    # With other flags the launcher itself would restart it once, with safe flags.
    flash = tiny(**stub_spec(interconnect={"mode": "Safe"}))
    flash.wait_for("Ready", "True", "Passed", seconds=120)
    pod = flash.pod()["metadata"]

    with Load(flash.address(), "tiny", USERS[:1]) as load:
        wait_until(lambda: load.total, "somebody uses it", seconds=30)
        play(flash, pod["name"], "hangs_after:tokens=1")
        found = flash.wait_for("Ready", "False", "Degraded", seconds=60)
        assert pod["name"] in found["message"]
        assert flash.endpoints() == []
        wait_until(lambda: engine_restarts(flash) == {pod["name"]: 1}, "its liveness probe fails", seconds=300)
        flash.wait_for("Ready", "True", "Passed", seconds=120)
    assert flash.pod()["metadata"]["uid"] == pod["uid"]
    assert failed_liveness_probes(e2e_env, flash.namespace) >= LIVENESS_FAILURES


def take_out_the_slow_one(flash: Flash) -> tuple[str, str]:
    """Makes both slow, one after the other. Returns the quarantined one, and the one that has to stay."""
    slow, other = sorted(engine_restarts(flash))
    play(flash, slow, too_slow(len(USERS)))
    wait_until(lambda: quarantines(flash)[slow] == "Granted", "it is taken out", seconds=120)
    play(flash, other, too_slow(len(USERS)))
    wait_until(lambda: quarantines(flash)[other] == "Waiting", "the other one wishes to leave", seconds=120)
    assert len(flash.endpoints()) == 1, "slow is better than nothing"
    return slow, other


@pytest.mark.usefixtures("program")
def test_a_slow_replica_is_quarantined_and_the_last_one_stays(tiny: MakeFlash) -> None:
    flash = tiny(replicas=2, **stub_spec())
    flash.wait_for("Ready", "True", "Passed", seconds=180)
    with Load(flash.address(), "tiny", USERS) as load:
        take_out_the_slow_one(flash)
    assert load.failed == []


@pytest.mark.long
@pytest.mark.usefixtures("program")
def test_a_slow_replica_is_quarantined_and_restarted_and_the_last_one_stays(tiny: MakeFlash) -> None:
    spec = stub_spec()
    spec["readiness"]["serving"] = {**spec["readiness"]["serving"], "onDegraded": "Restart"}
    flash = tiny(replicas=2, **spec)
    flash.wait_for("Ready", "True", "Passed", seconds=180)

    with Load(flash.address(), "tiny", USERS) as load:
        slow, other = take_out_the_slow_one(flash)
        wait_until(lambda: engine_restarts(flash)[slow] == 1, "it is started anew", seconds=300)
        wait_until(lambda: quarantines(flash)[other] == "Granted", "now the other one may leave", seconds=180)
        wait_until(lambda: engine_restarts(flash)[other] == 1, "and is started anew", seconds=300)
        flash.wait_for("Ready", "True", "Passed", seconds=180)
    assert load.failed == []
    assert len(flash.endpoints()) == 2
