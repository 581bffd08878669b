"""The chart is upgraded while users send requests: no engine restarts before its owner accepts the update.

helm, the API server, the Deployment controller, the kubelet, the Service, launcher, gate and operator are real. The
engines are stubs, because only the lifetime of pods matters here.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster_fixtures import LocalCluster
from e2e_env import ROOT, Flash, apply, install_operator, wait_until
from engine_stubs import engine_stub_program, stub_spec
from flash_contracts.names import API_VERSION, KIND
from image_builder.build import ensure_image
from image_builder.layout import cache_root, image_named
from service_load import Client, Load

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(900)]

IMAGE, NEWER = "localhost/flash/engine:cpu", "localhost/flash/engine:newer"
FORMER_COMMITS = ("aa04336",)
"""Releases from which an upgrade must be possible. Add the commit of each release."""
FORMER_IMAGE = "localhost/flash/engine:former"
FORMER_VALUES = {"probe__enabled": "false"}
"""Values that have another name now."""

REPLICAS = 1
USERS = tuple(Client(f"user {number}", (8, 400)) for number in range(6))


@pytest.fixture
def install(e2e_env: LocalCluster, own_node: None) -> Iterator[Any]:
    """Installs or upgrades the chart with a default engine image. Afterwards the other tests' operator is restored."""
    del own_node
    e2e_env.set_gpus(2 * REPLICAS + 2)
    e2e_env.containerd.ctr("images", "tag", "--force", IMAGE, NEWER)
    operator = ensure_image(image_named("operator"), cache_root())
    yield lambda engine: install_operator(e2e_env, operator, engineImage=engine)
    install_operator(e2e_env, operator)
    e2e_env.containerd.ctr("images", "rm", NEWER)


@dataclass(frozen=True)
class FormerRelease:
    """The files of an earlier commit, its images and its chart."""

    tree: Path

    def image(self, name: str) -> Path:
        """The archive of one of its images, built by its own builder."""
        paths = ("images/build", "hack", "tests", "tests/cluster")
        environment = {**os.environ, "PYTHONPATH": ":".join(str(self.tree / path) for path in paths)}
        command = [sys.executable, "-m", "image_builder", name, "--print-path"]
        done = subprocess.run(command, cwd=self.tree, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        return Path(done.stdout.splitlines()[-1])


@pytest.fixture(params=FORMER_COMMITS)
def former(request: pytest.FixtureRequest, tmp_path: Path) -> FormerRelease:
    """Needs the history of the repository."""
    archive = subprocess.run(["git", "archive", request.param], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive.stdout, check=True)
    return FormerRelease(tmp_path)


@pytest.fixture
def serving(e2e_env: LocalCluster, install: Any, namespace: str) -> Flash:
    """A replica of the operator's default image."""
    install(IMAGE)
    apply(e2e_env, engine_stub_program(namespace))
    flash = Flash(e2e_env, namespace, "tiny")
    ask_for(flash)
    flash.wait_for("Ready", "True", "Passed", seconds=180)
    return flash


def ask_for(flash: Flash, **rollout: Any) -> None:
    stub = stub_spec()
    engine = {
        **stub["engine"],
        "imagePullPolicy": "Never",
        "profile": "Custom",
        "contextTokens": 1024,
        "maxSequences": 4,
        "extraArgs": ["--tensor-parallel-size=1", *stub["engine"]["extraArgs"]],
    }
    spec = {
        **stub,
        "engine": engine,
        "replicas": REPLICAS,
        "model": {"source": "pvc://tiny-model/good", "servedNames": ["tiny"]},
        "rollout": {"maxSlowdownPercent": 60, **rollout},
    }
    metadata = {"name": flash.name, "namespace": flash.namespace}
    apply(flash.cluster, {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec})


def engines(flash: Flash) -> dict[str, tuple[str, int]]:
    """Image and restarts of each pod's engine, by the pod's uid."""
    found = {}
    for pod in flash.pods():
        restarts = sum(container["restartCount"] for container in pod["status"].get("containerStatuses", []))
        found[pod["metadata"]["uid"]] = (pod["spec"]["containers"][0]["image"], restarts)
    return found


def is_updated(flash: Flash, before: dict[str, Any]) -> bool:
    now = engines(flash)
    return (
        not now.keys() & before.keys()
        and len(flash.endpoints()) == REPLICAS == len(now)
        and flash.condition("UpdateAvailable").get("status") == "False"
    )


def test_an_upgrade_restarts_nothing_and_its_update_is_taken_without_a_lost_request(
    serving: Flash, install: Any
) -> None:
    before = engines(serving)
    with Load(serving.address(), "tiny", USERS) as load:
        load.story = "upgrade"
        install(NEWER)
        found = serving.wait_for("UpdateAvailable", "True", "UpdateAvailable", seconds=60)
        assert f"engine image: {IMAGE} -> {NEWER}" in found["message"]
        assert serving.condition("Ready")["status"] == "True"
        assert engines(serving) == before
        assert {image for image, _ in before.values()} == {IMAGE}

        load.story = "update"
        ask_for(serving, acceptUpdate=serving.status()["update"]["revision"])
        wait_until(partial(is_updated, serving, before), "the replica runs the update", seconds=240)

    assert set(engines(serving).values()) == {(NEWER, 0)}
    assert load.failed == []
    assert min(load.answered["upgrade"], load.answered["update"]) > 20
    rollout = serving.status()["rollout"]
    assert (rollout["state"], rollout["engineImage"]) == ("Settled", NEWER)


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_an_upgrade_from_a_former_release_restarts_no_engine_and_loses_no_request(
    e2e_env: LocalCluster, install: Any, former: FormerRelease, tiny: Callable[..., Flash]
) -> None:
    """The former operator, gate, launcher and chart with a real engine; then this release, without intervention."""
    e2e_env.import_image(former.image("engine-cpu"))
    e2e_env.containerd.ctr("images", "tag", "--force", IMAGE, FORMER_IMAGE)
    operator = former.image("operator")
    e2e_env.import_image(operator)
    values = {"engineImage": FORMER_IMAGE, **FORMER_VALUES}
    install_operator(e2e_env, operator, chart=former.tree / "charts" / "deepseek-flash-operator", **values)
    flash = tiny(engine={"image": FORMER_IMAGE})
    flash.wait_for("Ready", "True", "Passed", seconds=400)
    before = engines(flash)
    for image in ("engine-cpu", "operator"):
        e2e_env.import_image(ensure_image(image_named(image), cache_root()))

    with Load(flash.address(), "tiny", USERS[:2]) as load:
        load.story = "upgrade"
        install(IMAGE)
        found = flash.wait_for("UpdateAvailable", "True", "UpdateAvailable", seconds=120)
        assert "engine resources requests" in found["message"], "the former release requested nothing"
        assert engines(flash) == before, found
        assert flash.condition("Ready")["status"] == "True"
        wait_until(lambda: load.answered["upgrade"] >= 2 * len(load.clients), "users are served", seconds=120)

        load.story = "the user takes the newer image"
        ask = partial(tiny, engine={"image": IMAGE})
        ask()
        wait_until(lambda: not engines(flash).keys() & before.keys(), "the engine is replaced", seconds=600)
        flash.wait_for("Ready", "True", "Passed", seconds=400)

    assert load.failed == []
    assert set(engines(flash).values()) == {(IMAGE, 0)}
