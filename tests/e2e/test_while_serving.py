"""What becomes of replicas that fail while they serve. Engines are stubs; who finds out and acts is real."""

from collections.abc import Callable, Iterator

import pytest

from cluster_fixtures import LocalCluster
from engine_stubs import engine_stub_program, play, stub_spec
from service_load import Client, Load
from stage import Flash, apply, get_json, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

MakeFlash = Callable[..., Flash]

USERS = tuple(Client(f"user {number}", (100, 300)) for number in range(6))


@pytest.fixture
def room(stage: LocalCluster, namespace: str) -> Iterator[None]:
    """The stub's program, and GPUs for two replicas."""
    apply(stage, engine_stub_program(namespace))
    stage.set_gpus(4)
    yield
    stage.set_gpus(2)


def engine_restarts(flash: Flash) -> dict[str, int]:
    return {
        pod["metadata"]["name"]: status["restartCount"]
        for pod in flash.pods()
        for status in pod["status"].get("containerStatuses", [])
    }


def notes_of(flash: Flash, reason: str) -> list[str]:
    events = get_json(flash.cluster, "events.events.k8s.io", "-n", flash.namespace)["items"]
    return [event["note"] for event in events if event["reason"] == reason]


def quarantines(flash: Flash) -> dict[str, str | None]:
    return {pod["name"]: pod.get("quarantine") for pod in flash.status()["pods"]}


@pytest.mark.usefixtures("room")
def test_one_that_hangs_is_taken_out_at_once_and_started_anew_by_the_kubelet(tiny: MakeFlash) -> None:
    # With other flags its launcher would start it anew itself, once, with the safe ones.
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
    assert any("Liveness" in note for note in notes_of(flash, "Unhealthy"))


@pytest.mark.usefixtures("room")
def test_a_slow_one_is_taken_out_and_started_anew_and_the_last_one_stays_however_slow(tiny: MakeFlash) -> None:
    spec = stub_spec()
    spec["readiness"]["serving"] = {**spec["readiness"]["serving"], "onDegraded": "Restart"}
    flash = tiny(replicas=2, **spec)
    flash.wait_for("Ready", "True", "Passed", seconds=180)
    slow, other = sorted(engine_restarts(flash))

    with Load(flash.address(), "tiny", USERS) as load:
        play(flash, slow, "slow:factor=6")
        wait_until(lambda: quarantines(flash)[slow] == "Granted", "it is taken out", seconds=120)
        play(flash, other, "slow:factor=6")
        wait_until(lambda: quarantines(flash)[other] == "Waiting", "the other one wishes to leave", seconds=120)
        assert len(flash.endpoints()) == 1, "slow is better than nothing"

        wait_until(lambda: engine_restarts(flash)[slow] == 1, "it is started anew", seconds=300)
        wait_until(lambda: quarantines(flash)[other] == "Granted", "now the other one may leave", seconds=180)
        wait_until(lambda: engine_restarts(flash)[other] == 1, "and is started anew", seconds=300)
        flash.wait_for("Ready", "True", "Passed", seconds=180)
    assert load.failed == []
    assert len(flash.endpoints()) == 2
