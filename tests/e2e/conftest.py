"""The whole product on the real local cluster, started once: images, chart by helm, tiny models."""

import os
import uuid
from collections.abc import Callable, Generator, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_model
from cluster_fixtures import LocalCluster
from e2e_env import (
    ROOT,
    Flash,
    a_restricted_namespace,
    apply,
    clear_node,
    get_json,
    install_operator,
    model_claim,
    operator_story,
    wait_until,
)
from flash_contracts.names import API_VERSION, KIND
from image_builder.build import ensure_image
from image_builder.layout import cache_root, image_named
from local_cluster.cache import exclusive

TAKES_LONGEST = (
    "test_load_takes_it_from_one_replica_to_three_and_back_and_no_request_fails[beside other tests]",
    "test_a_slow_replica_is_quarantined_and_restarted_and_the_last_one_stays",
    "test_with_real_engines_and_clients_that_keep_their_connections",
    "test_a_hung_replica_is_not_ready_at_once_and_restarted_by_the_kubelet",
    "test_over_a_rolling_update_and_an_eviction",
    "test_a_slow_replica_is_quarantined_and_the_last_one_stays",
    "test_a_model_is_fetched_with_progress_serves_and_is_kept_for_the_next_pod",
    "test_an_image_is_pulled_by_its_pod_serves_and_is_kept_for_the_next_one",
    "test_each_checkpoint_is_rejected_with_its_fault_in_status",
    "test_without_a_drain_requests_are_lost",
    "test_a_head_is_restored_once_and_found_by_the_next_deployment",
    "test_a_slow_engine_is_reported_with_both_figures_and_passes_a_lower_floor_without_a_restart",
)
"""Long tests first: they spend most of their time waiting."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each worker starts with a long test and continues with a short one, so that all end at about the same time.

    The quickstart comes first where there are no workers: it starts a cluster itself, and a machine can run one.
    """
    if not hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.name != "test_quickstart.py")
    if hasattr(config, "workerinput") and all(item.get_closest_marker("cluster") for item in items):
        ranks = {name: rank for rank, name in enumerate(TAKES_LONGEST)}
        items.sort(key=lambda item: ranks.get(item.name, len(ranks)))
        half = (len(items) + 1) // 2
        items[:] = [item for pair in zip_longest(items[:half], items[half:]) for item in pair if item]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds logs to the report of a test that failed, the operator's first: the status alone rarely tells why."""
    report = yield
    used = getattr(item, "funcargs", {})
    if report.failed and "e2e_env" in used:
        report.sections.append(("operator", operator_story(used["e2e_env"])))
        report.sections += [(name, used[name].story()) for name in ("keda", "karpenter") if name in used]
    return report


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the tiny models: good, dead, nomtp, partial."""
    return tiny_model.build(cache_root() / "models")


@pytest.fixture(scope="session")
def e2e_env(cluster: LocalCluster) -> LocalCluster:
    """The cluster with both images imported and the operator installed by helm, by the first of the run's workers."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    installed = cluster.run / f"e2e-env-of-{run}"
    with exclusive(cluster.run / "e2e-env.lock", "the worker that installs the operator"):
        if not run or not installed.exists():
            _set_up(cluster)
            installed.touch()
    return cluster


def _set_up(cluster: LocalCluster) -> None:
    engine, operator = (ensure_image(image_named(name), cache_root()) for name in ("engine-cpu", "operator"))
    for image in (engine, operator):
        cluster.import_image(image)
    install_operator(cluster, operator)


@pytest.fixture
def namespace(e2e_env: LocalCluster, models: Path) -> Iterator[str]:
    """A restricted namespace with a claim for the tiny models. It is deleted afterwards, without waiting."""
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    apply(e2e_env, a_restricted_namespace(name))
    apply(e2e_env, *model_claim(name, str(models)))
    yield name
    e2e_env.kubectl("delete", "namespace", name, "--wait=false")
    e2e_env.kubectl("delete", "persistentvolume", "-l", f"flash-e2e={name}", "--wait=false")
    # A namespace that is being deleted admits no new pods. No client uses the pods any more, so they need no drain.
    e2e_env.kubectl("delete", "pods", "--all", "-n", name, "--grace-period=1", "--wait=false")


@pytest.fixture
def own_node(e2e_env: LocalCluster, pair: None) -> Iterator[None]:
    """For tests marked `alone`: a node with two free GPUs and without our labels, as before the installation."""
    del pair
    wait_until(lambda: _gpus_are_free(e2e_env), "pods that hold GPUs are gone", seconds=120)
    yield
    clear_node(e2e_env)


def _gpus_are_free(cluster: LocalCluster) -> bool:
    return not get_json(cluster, "pods", "-A", "-l", "app.kubernetes.io/name=deepseek-flash")["items"]


@pytest.fixture
def tiny(e2e_env: LocalCluster, namespace: str) -> Callable[..., Flash]:
    """Apply examples/tiny.yaml with another name, model and spec. Returns a handle that reads it as its owner would."""

    def make(name: str = "tiny", model: str = "good", **spec: Any) -> Flash:
        example = yaml.safe_load((ROOT / "examples" / "tiny.yaml").read_text())
        merged = {
            **example["spec"],
            "model": {**example["spec"]["model"], "source": f"pvc://tiny-model/{model}"},
        }
        for key, value in spec.items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
        apply(
            e2e_env,
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {"name": name, "namespace": namespace},
                "spec": merged,
            },
        )
        return Flash(e2e_env, namespace, name)

    return make
