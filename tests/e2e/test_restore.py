"""A real Job restores the MTP head of a stripped checkpoint before anything is served, once per folder.

The checkpoint is a fake DeepSeek-V4 with four experts, and the quantiser's image is the one for CPUs. No vLLM runs
DeepSeek-V4 on a CPU, so these tests check the Job, the status and the files on the claim. That a restored head drafts
as well as the original is checked by tests/quantiser/test_acceptance.py.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster_fixtures import LocalCluster
from e2e_env import ROOT, Flash, apply, get_json, model_claim, wait_until
from fake_checkpoint import FakeCheckpoint
from flash_contracts.names import API_VERSION, KIND
from image_builder.build import ensure_image
from image_builder.layout import cache_root, image_named

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

IMAGE = "localhost/flash/quantiser:cpu"
NON_ROOT = 65532
JOB_SECONDS = 300

MakeFlash = Callable[..., Flash]


@pytest.fixture(scope="module")
def _quantiser(e2e_env: LocalCluster) -> None:
    e2e_env.import_image(ensure_image(image_named("quantiser-cpu"), cache_root()))


@pytest.fixture
def volume(e2e_env: LocalCluster, namespace: str, _quantiser: None, tmp_path: Path) -> Path:
    """A writable claim `restored`, with a stripped and an official checkpoint."""
    folder = tmp_path / "volume"
    FakeCheckpoint.make("stripped").save_to_serve(folder / "stripped")
    FakeCheckpoint.make("official").save(folder / "official")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NON_ROOT, NON_ROOT)
    persistent, claim = model_claim(namespace, str(folder), "restored")
    for one in (persistent, claim):
        one["spec"]["accessModes"] = ["ReadWriteMany"]
    apply(e2e_env, persistent, claim)
    return folder


@pytest.fixture
def restoring(e2e_env: LocalCluster, namespace: str, volume: Path) -> MakeFlash:
    """examples/tiny.yaml with a checkpoint to restore, and without replicas, because no vLLM runs it on a CPU."""
    del volume

    def make(name: str, source: str, base: str = "stripped", *, replicas: int = 0) -> Flash:
        spec = yaml.safe_load((ROOT / "examples" / "tiny.yaml").read_text())["spec"]
        restore = {"source": f"pvc://restored/{source}", "image": IMAGE}
        spec |= {"replicas": replicas}
        spec["model"] = {**spec["model"], "source": f"pvc://restored/{base}", "restoreMtp": restore}
        metadata = {"name": name, "namespace": namespace}
        apply(e2e_env, {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec})
        return Flash(e2e_env, namespace, name)

    return make


def until(flash: Flash, mtp: str) -> dict[str, Any]:
    """status.model once it has this state."""

    def look() -> dict[str, Any] | None:
        model: dict[str, Any] = flash.status().get("model", {})
        return model if model.get("mtp") == mtp else None

    try:
        return wait_until(look, f"{flash.name}: status.model.mtp {mtp}", seconds=JOB_SECONDS)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; last seen: {flash.status()}") from error


def deployments(flash: Flash) -> list[str]:
    items = get_json(flash.cluster, "deployments", "-n", flash.namespace)["items"]
    return [item["metadata"]["name"] for item in items]


def event_reasons(flash: Flash) -> set[str]:
    items = get_json(flash.cluster, "events.events.k8s.io", "-n", flash.namespace)["items"]
    return {item["reason"] for item in items if item["regarding"]["name"] == flash.name}


def files_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_head_is_restored_once_and_found_by_the_next_deployment(restoring: MakeFlash, volume: Path) -> None:
    first = restoring("first", "official")
    wait_until(
        lambda: first.condition("Progressing").get("reason") == "RestoringMtp", "it is in the status", seconds=60
    )
    assert deployments(first) == [], "nothing is served before it is done"

    model = until(first, "Restored")
    assert (model["matricesGptq"], model["matricesRounded"]) == (0, 12)
    assert "12 rounded to nearest" in model["message"]
    wait_until(lambda: deployments(first) == ["first"], "the Deployment", seconds=60)
    folder = volume / model["path"].rpartition("/")[2]
    inspected = subprocess.run(
        [sys.executable, "-m", "flash_engine.checkpoint", "inspect", str(folder)], capture_output=True, check=False
    )
    assert inspected.returncode == 0, inspected.stdout.decode()
    assert (folder / "model.safetensors").stat().st_ino == (volume / "stripped/model.safetensors").stat().st_ino
    assert {"RestoringMtp", "MtpRestored"} <= event_reasons(first)

    before = files_of(folder)
    second = restoring("second", "official")
    found = until(second, "Restored")
    assert found["path"] == model["path"]
    assert "restored before" in found["message"]
    assert found["matricesRounded"] == 12
    assert files_of(folder) == before, "nothing was written again"

    serving = restoring("second", "official", replicas=1)
    pod = wait_until(lambda: next(iter(serving.pods()), None), "an engine pod", seconds=60)
    assert pod["spec"]["containers"][0]["args"][1] == f"/models/{folder.name}"


@pytest.mark.long
def test_a_checkpoint_with_its_head_is_linked_unchanged(restoring: MakeFlash, volume: Path) -> None:
    whole = FakeCheckpoint.make("seed").save_to_serve(volume / "whole")
    for path in (whole, *whole.iterdir()):
        os.chown(path, NON_ROOT, NON_ROOT)
    model = until(restoring("whole", "official", "whole"), "Native")
    assert "already has an MTP head" in model["message"]


@pytest.mark.long
def test_a_source_without_the_head_is_refused_in_the_tools_own_words(restoring: MakeFlash) -> None:
    flash = restoring("wrong", "stripped")
    model = until(flash, "Failed")
    assert "is a checkpoint without an MTP head (no mtp.* tensor)" in model["message"]
    found = flash.wait_for("Progressing", "False", "MtpRestoreFailed", seconds=60)
    assert "kubectl delete job" in found["message"]
    assert deployments(flash) == []
    (pod,) = get_json(flash.cluster, "pods", "-n", flash.namespace, "-l", "deepseekflash.dev/restore-of=wrong")["items"]
    assert pod["status"]["phase"] == "Failed", "a user's mistake is not tried again and again"


@pytest.mark.long
def test_a_restore_is_retried_when_the_job_is_deleted(restoring: MakeFlash, volume: Path) -> None:
    flash = restoring("late", "brought-later")
    assert "brought-later is not a folder" in until(flash, "Failed")["message"]
    shutil.copytree(volume / "official", volume / "brought-later")
    flash.cluster.kubectl("delete", "job", "late-restore", "-n", flash.namespace)
    assert until(flash, "Restored")["matricesRounded"] == 12
