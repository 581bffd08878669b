"""The whole product on the real local cluster, started once: images, chart by helm, tiny models."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_model
from cluster_fixtures import LocalCluster
from flash_contracts.names import API_VERSION, KIND
from image_builder.build import ensure_image
from image_builder.layout import cache_root, image_named
from stage import (
    ROOT,
    Flash,
    a_restricted_namespace,
    apply,
    clear_node,
    get_json,
    install_operator,
    model_claim,
    wait_until,
)


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the tiny models: good, dead, nomtp, partial."""
    return tiny_model.build(cache_root() / "models")


@pytest.fixture(scope="session")
def stage(cluster: LocalCluster) -> LocalCluster:
    """The cluster with both images imported and the operator installed by helm."""
    engine, operator = (ensure_image(image_named(name), cache_root()) for name in ("engine-cpu", "operator"))
    for image in (engine, operator):
        cluster.import_image(image)
    install_operator(cluster, operator)
    return cluster


@pytest.fixture
def namespace(stage: LocalCluster, models: Path) -> Iterator[str]:
    """A namespace of its own, restricted, with a claim over the tiny models; gone with all it held afterwards."""
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    apply(stage, a_restricted_namespace(name))
    apply(stage, *model_claim(name, str(models)))
    yield name
    stage.kubectl("delete", "namespace", name, "--wait=false")
    stage.kubectl("delete", "persistentvolume", "-l", f"flash-stage={name}", "--wait=false")
    wait_until(lambda: _gpus_are_free(stage), "pods that hold GPUs are gone", seconds=120)


def _gpus_are_free(cluster: LocalCluster) -> bool:
    """The next test needs both GPUs of the only node."""
    return not get_json(cluster, "pods", "-A", "-l", "app.kubernetes.io/name=deepseek-flash")["items"]


@pytest.fixture(autouse=True)
def _nothing_left_on_the_node(stage: LocalCluster) -> Iterator[None]:
    """Labels are set by hand here; none may leak from one test into the next, nor what a test of links has noted."""
    yield
    clear_node(stage)


@pytest.fixture
def tiny(stage: LocalCluster, namespace: str) -> Callable[..., Flash]:
    """Apply examples/tiny.yaml with another name, model and spec; returns what its owner sees of it."""

    def make(name: str = "tiny", model: str = "good", **spec: Any) -> Flash:
        example = yaml.safe_load((ROOT / "examples" / "tiny.yaml").read_text())
        merged = {
            **example["spec"],
            "model": {**example["spec"]["model"], "source": f"pvc://tiny-model/{model}"},
        }
        for key, value in spec.items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
        apply(
            stage,
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {"name": name, "namespace": namespace},
                "spec": merged,
            },
        )
        return Flash(stage, namespace, name)

    return make
