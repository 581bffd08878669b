"""Faults around the engine: an operator that dies, and pods that cannot start."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from cluster_fixtures import LocalCluster
from e2e_env import OPERATOR_NAMESPACE, RELEASE, Flash, apply, operator_pods, the_operator, wait_until
from engine_stubs import engine_stub_program, stub_spec
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION
from pod_processes import processes_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

MakeFlash = Callable[..., Flash]
LATE_SECONDS = 90


def scale_operator(cluster: LocalCluster, replicas: int) -> None:
    deployment = f"deployment/{RELEASE}"
    cluster.kubectl("scale", "-n", OPERATOR_NAMESPACE, deployment, f"--replicas={replicas}")


@pytest.fixture
def scripted(e2e_env: LocalCluster, own_node: None, namespace: str, tiny: MakeFlash) -> Iterator[MakeFlash]:
    """Engine stubs. The operator, which these tests stop, is restored afterwards in any case."""
    del own_node
    apply(e2e_env, engine_stub_program(namespace))
    yield lambda *scripts: tiny(**stub_spec(*scripts))
    scale_operator(e2e_env, 1)


@pytest.mark.alone
def test_a_pod_becomes_ready_by_itself_while_the_operator_is_dead(e2e_env: LocalCluster, scripted: MakeFlash) -> None:
    # Before there is a pod: an operator that is about to leave takes up to half a minute.
    operator = the_operator(e2e_env)
    # It loads for longer than it takes to stop the operator, and every draft is accepted.
    flash = scripted("loading:seconds=20", "poor_draft:acceptance=1")
    wait_until(lambda: flash.pods() and flash.pod()["spec"].get("nodeName"), "the pod is bound", seconds=60)

    scale_operator(e2e_env, 0)
    for pid in processes_of(operator["metadata"]["uid"]):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not operator_pods(e2e_env), "the operator is gone", seconds=60)

    pod = flash.pod()
    e2e_env.kubectl(
        "wait",
        "-n",
        flash.namespace,
        f"pod/{pod['metadata']['name']}",
        "--for=condition=Ready",
        "--timeout=400s",
    )
    assert flash.endpoints() == [pod["status"]["podIP"]]
    assert flash.condition("Ready").get("status") != "True", "nobody was there to write it"

    scale_operator(e2e_env, 1)
    flash.wait_for("Ready", "True", "Passed", seconds=120)
    after = flash.pod()
    restarts = [
        s["restartCount"] for s in after["status"]["containerStatuses"] + after["status"]["initContainerStatuses"]
    ]
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert restarts == [0, 0]
    assert flash.status()["summary"]["acceptancePercent"] >= 95


@pytest.mark.long
@pytest.mark.alone
def test_late_flags_are_reported_and_restart_nothing(e2e_env: LocalCluster, scripted: MakeFlash) -> None:
    e2e_env.kubectl(
        "label", "node", e2e_env.node_name, "deepseekflash.dev/gpu-link=node", "deepseekflash.dev/gpu-p2p=verified"
    )
    flash = scripted()
    wait_until(lambda: flash.pods() and flash.pod()["spec"].get("nodeName"), "the pod is bound", seconds=60)
    scale_operator(e2e_env, 0)
    wait_until(lambda: not operator_pods(e2e_env), "the operator is gone", seconds=60)
    e2e_env.kubectl("delete", "pod", flash.pod()["metadata"]["name"], "-n", flash.namespace)
    (pod,) = wait_until(flash.pods, "a pod that no operator sees", seconds=60)
    late = pod["metadata"]
    e2e_env.kubectl("wait", "-n", flash.namespace, f"pod/{late['name']}", "--for=condition=Ready", "--timeout=400s")
    assert ENGINE_FLAGS_ANNOTATION not in flash.pod()["metadata"].get("annotations", {})
    wait_until(lambda: _age_seconds(flash.pod()) > LATE_SECONDS, "its flags are late", seconds=LATE_SECONDS)

    scale_operator(e2e_env, 1)

    found = flash.wait_for("Degraded", "True", "FallbackFlags", seconds=120)
    assert late["name"] in found["message"]
    (status,) = flash.status()["pods"]
    assert (status["flagsOrigin"], status["row"], status["flagsOutdated"]) == ("fallback", "T8", "Outdated")
    assert flash.condition("Ready")["status"] == "True"
    after = flash.pod()
    assert after["metadata"]["uid"] == late["uid"]
    assert json.loads(after["metadata"]["annotations"][ENGINE_FLAGS_ANNOTATION])["row"] == "T3"
    assert [container["restartCount"] for container in after["status"]["containerStatuses"]] == [0]


def _age_seconds(pod: dict[str, Any]) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(pod["metadata"]["creationTimestamp"])).total_seconds()


def test_an_image_that_cannot_be_pulled_is_reported_in_the_kubelets_words(tiny: MakeFlash) -> None:
    flash = tiny(engine={"image": "localhost/flash/nowhere:1", "imagePullPolicy": "Never"})

    found = flash.wait_for("Progressing", "False", "ErrImageNeverPull", seconds=60)
    assert "localhost/flash/nowhere:1" in found["message"]
    assert flash.condition("Available")["status"] == "False"


def test_a_lack_of_free_gpus_is_reported_in_the_schedulers_words(tiny: MakeFlash) -> None:
    flash = tiny(placement={"nodeSelector": {"kubernetes.io/hostname": "nowhere"}})

    found = flash.wait_for("Progressing", "False", "Unschedulable", seconds=60)
    assert "0/1 nodes are available" in found["message"]
    assert flash.condition("Available")["reason"] == "Unschedulable"


def test_a_missing_claim_is_reported_in_the_schedulers_words(tiny: MakeFlash) -> None:
    flash = tiny(model="good", podTemplate={
        "spec": {"volumes": [{"name": "model", "persistentVolumeClaim": {"claimName": "missing"}}]}
    })  # fmt: skip

    found = flash.wait_for("Progressing", "False", "Unschedulable", seconds=60)
    assert 'persistentvolumeclaim "missing" not found' in found["message"]


def test_a_missing_model_folder_is_reported_in_the_launchers_words(tiny: MakeFlash) -> None:
    flash = tiny(model="not-there")

    found = flash.wait_for("Ready", "False", "ModelRejected", seconds=120)
    assert "/models/not-there" in json.dumps(found)
