"""What goes wrong around the engine: the operator dies, and pods that cannot even start."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster_fixtures import LocalCluster
from stage import OPERATOR_NAMESPACE, RELEASE, Flash, get_json, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

MakeFlash = Callable[..., Flash]


def processes_of(pod_uid: str) -> list[int]:
    """The processes of a pod, seen from its node, which is this machine."""
    marks = (pod_uid, pod_uid.replace("-", "_"))
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            cgroups = (process / "cgroup").read_text()
        except OSError:
            continue  # it ended while we looked
        if any(mark in cgroups for mark in marks):
            pids.append(int(process.name))
    return pids


def operator_pods(cluster: LocalCluster) -> list[str]:
    selector = "app.kubernetes.io/name=deepseek-flash-operator"
    pods = get_json(cluster, "pods", "-n", OPERATOR_NAMESPACE, "-l", selector)["items"]
    return [pod["metadata"]["uid"] for pod in pods]


def scale_operator(cluster: LocalCluster, replicas: int) -> None:
    deployment = f"deployment/{RELEASE}"
    cluster.kubectl("scale", "-n", OPERATOR_NAMESPACE, deployment, f"--replicas={replicas}")


def test_a_pod_becomes_ready_by_itself_while_the_operator_is_dead(stage: LocalCluster, tiny: MakeFlash) -> None:
    flash = tiny()
    wait_until(lambda: flash.pods() and flash.pod()["spec"].get("nodeName"), "the pod is bound", seconds=60)

    (operator,) = operator_pods(stage)
    scale_operator(stage, 0)
    for pid in processes_of(operator):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not operator_pods(stage), "the operator is gone", seconds=60)

    pod = flash.pod()
    stage.kubectl(
        "wait",
        "-n",
        flash.namespace,
        f"pod/{pod['metadata']['name']}",
        "--for=condition=Ready",
        "--timeout=400s",
    )
    assert flash.endpoints() == [pod["status"]["podIP"]]
    assert flash.condition("Ready").get("status") != "True", "nobody was there to write it"

    scale_operator(stage, 1)
    flash.wait_for("Ready", "True", "Passed", seconds=120)
    after = flash.pod()
    restarts = [
        s["restartCount"] for s in after["status"]["containerStatuses"] + after["status"]["initContainerStatuses"]
    ]
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert restarts == [0, 0]
    assert flash.status()["summary"]["acceptancePercent"] >= 95


def test_an_image_that_cannot_be_pulled_is_said_in_the_kubelets_words(tiny: MakeFlash) -> None:
    flash = tiny(engine={"image": "localhost/flash/nowhere:1", "imagePullPolicy": "Never"})

    found = flash.wait_for("Progressing", "False", "ErrImageNeverPull", seconds=60)
    assert "localhost/flash/nowhere:1" in found["message"]
    assert flash.condition("Available")["status"] == "False"


def test_no_node_with_two_free_gpus_is_said_in_the_schedulers_words(tiny: MakeFlash) -> None:
    flash = tiny(placement={"nodeSelector": {"kubernetes.io/hostname": "nowhere"}})

    found = flash.wait_for("Progressing", "False", "Unschedulable", seconds=60)
    assert "0/1 nodes are available" in found["message"]
    assert flash.condition("Available")["reason"] == "Unschedulable"


def test_a_claim_that_does_not_exist_is_said_in_the_schedulers_words(tiny: MakeFlash) -> None:
    flash = tiny(model="good", podTemplate={
        "spec": {"volumes": [{"name": "model", "persistentVolumeClaim": {"claimName": "missing"}}]}
    })  # fmt: skip

    found = flash.wait_for("Progressing", "False", "Unschedulable", seconds=60)
    assert 'persistentvolumeclaim "missing" not found' in found["message"]


def test_a_missing_model_folder_is_said_in_the_engines_words(tiny: MakeFlash) -> None:
    flash = tiny(model="not-there")

    found = flash.wait_for("Ready", "False", "EngineExited", seconds=300)
    assert "/models/not-there" in json.dumps(found)
