"""A real Karpenter brings and removes nodes for replicas. kwok plays the nodes, on which nothing runs."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster_fixtures import PLENTY_OF_GPUS, LocalCluster
from e2e_env import RESOURCE, Flash, apply, get_json, wait_until
from engine_stubs import engine_stub_program, stub_spec
from flash_operator.core.scaling.pod_annotations import DO_NOT_DISRUPT
from karpenter import FOUR_GPUS, GPU_TAINT, TWO_GPUS, Karpenter

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.long, pytest.mark.timeout(900)]

MakeFlash = Callable[..., Flash]

BUDGET_SECONDS = 600
"""More than this test takes."""

HOLD_SECONDS = 60
"""Twice as long as Karpenter takes to move an unprotected pod."""


@dataclass
class Diary:
    """Prints how long after the beginning something had come true."""

    _began: float = field(default_factory=time.monotonic)

    def wait_until(self, look: Callable[[], Any], what: str, *, seconds: float) -> Any:
        found = wait_until(look, what, seconds=seconds)
        print(f"{time.monotonic() - self._began:6.1f} s  {what}")
        return found


@pytest.fixture
def karpenter(e2e_env: LocalCluster) -> Iterator[Karpenter]:
    """The only nodes with GPUs are those that it brings."""
    e2e_env.set_gpus(0)
    karpenter = Karpenter(e2e_env)
    karpenter.start()
    yield karpenter
    karpenter.remove()
    e2e_env.set_gpus(PLENTY_OF_GPUS)


def scale(flash: Flash, replicas: int) -> None:
    flash.cluster.kubectl("scale", RESOURCE, flash.name, "-n", flash.namespace, f"--replicas={replicas}")


def types_of(karpenter: Karpenter) -> list[str]:
    return sorted(karpenter.nodes().values())


def loading(flash: Flash, replicas: int) -> list[dict[str, Any]]:
    """The pods, once there are so many, each with the operator's annotation on a node."""
    pods = flash.pods()
    protected = [pod for pod in pods if DO_NOT_DISRUPT in pod["metadata"].get("annotations", {})]
    return pods if len(protected) == len(pods) == replicas else []


def reasons(flash: Flash, pod: str) -> set[str]:
    """Of the events about a pod."""
    events = get_json(flash.cluster, "events", "-n", flash.namespace)["items"]
    return {event["reason"] for event in events if event["involvedObject"].get("name") == pod}


def test_nodes_come_for_replicas_go_with_them_and_are_left_alone_while_replicas_load(
    e2e_env: LocalCluster, karpenter: Karpenter, namespace: str, tiny: MakeFlash
) -> None:
    diary = Diary()
    assert types_of(karpenter) == []
    apply(e2e_env, engine_stub_program(namespace))
    stub = stub_spec()
    readiness = {**stub["readiness"], "startupTimeoutSeconds": BUDGET_SECONDS}
    placement = {"tolerations": [{**GPU_TAINT, "operator": "Equal"}]}
    flash = tiny(**{**stub, "readiness": readiness}, placement=placement, replicas=1)

    # The pending replica brings the first node.
    (first,) = diary.wait_until(lambda: loading(flash, 1), "the replica loads on a node", seconds=120)
    assert types_of(karpenter) == [TWO_GPUS]
    assert first["metadata"]["annotations"][DO_NOT_DISRUPT] == f"{BUDGET_SECONDS}s"
    scale(flash, 0)
    diary.wait_until(lambda: types_of(karpenter) == [], "the empty node goes", seconds=180)

    # Two replicas are cheapest on one node of four. After one has gone, a node of two would do for the other.
    scale(flash, 2)
    diary.wait_until(lambda: loading(flash, 2), "two replicas load", seconds=120)
    assert types_of(karpenter) == [FOUR_GPUS]
    scale(flash, 1)
    (left,) = diary.wait_until(lambda: loading(flash, 1), "one is left", seconds=60)
    name = left["metadata"]["name"]
    diary.wait_until(lambda: "DoNotDisruptUntil" in reasons(flash, name), "Karpenter leaves it alone", seconds=180)
    time.sleep(HOLD_SECONDS)
    assert types_of(karpenter) == [FOUR_GPUS]
    assert [pod["metadata"]["uid"] for pod in flash.pods()] == [left["metadata"]["uid"]]

    # The control: without the annotation, it is moved while it loads.
    e2e_env.kubectl("annotate", "pod", name, "-n", namespace, f"{DO_NOT_DISRUPT}-")
    diary.wait_until(lambda: types_of(karpenter) == [TWO_GPUS], "a cheaper node replaces the other", seconds=240)
    assert "Evicted" in reasons(flash, name)
    assert [pod["metadata"]["name"] for pod in flash.pods()] != [name]
