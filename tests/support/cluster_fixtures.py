"""pytest fixtures: a real API server, and a real cluster, each started once in a run.

With several workers (pytest-xdist) the first one that needs the cluster starts it, the others find it, and it belongs
to the process that started them all, which takes it down in the end. Tests marked `alone` run without workers.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local_cluster import machine
from local_cluster.cluster import LocalCluster
from local_cluster.control_plane import ControlPlane, a_light_control_plane

__all__ = ["ControlPlane", "LocalCluster"]

BOOT_SECONDS = pytest.StashKey[float]()
OWNER = "cluster_owner"

PLENTY_OF_GPUS = 128
"""Numbers in the node's capacity: enough for all tests that run in parallel."""

PAIR = 2
"""The GPUs of a node that the product is made for."""


@pytest.fixture(scope="session")
def api_server() -> Iterator[ControlPlane]:
    """etcd and kube-apiserver alone: no controllers, no nodes, no root."""
    plane = a_light_control_plane()
    yield plane
    plane.stop()


@pytest.fixture(scope="session")
def older_api_server() -> Iterator[ControlPlane]:
    """An API server like that of Kubernetes 1.34, without image volumes."""
    plane = a_light_control_plane("--emulated-version=1.34")
    yield plane
    plane.stop()


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[LocalCluster]:
    """The whole cluster of this run. FLASH_KUBECONFIG names one that runs already; that is used and left running."""
    kubeconfig = os.environ.get("FLASH_KUBECONFIG")
    if kubeconfig:
        local = _running_cluster(Path(kubeconfig))
    else:
        local = LocalCluster()
        pytestconfig.stash[BOOT_SECONDS] = local.up(kept=False, starter=_owner(pytestconfig))
    local.set_gpus(PLENTY_OF_GPUS)
    yield local
    if kubeconfig:
        local.set_gpus(PAIR)


@pytest.fixture
def pair(cluster: LocalCluster) -> Iterator[None]:
    """For tests marked `alone`: the node has two GPUs."""
    cluster.set_gpus(PAIR)
    yield
    cluster.set_gpus(PLENTY_OF_GPUS)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker which process owns the cluster."""
    node.workerinput[OWNER] = os.getpid()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture."""
    if _is_worker(item.config) and item.get_closest_marker("alone"):
        pytest.fail('it runs alone, and not with several workers: add -m "not alone"', pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if BOOT_SECONDS in config.stash:
        terminalreporter.write_line(f"local cluster: booted in {config.stash[BOOT_SECONDS]:.1f} s")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Once all workers have ended."""
    holder = machine.holder()
    if holder and holder.is_for(_owner(config), kept=False) and not _is_worker(config):
        LocalCluster(Path(holder.run)).down()


def _is_worker(config: pytest.Config) -> bool:
    return bool(_worker_input(config))


def _worker_input(config: pytest.Config) -> dict[str, Any]:
    """What xdist passes to a worker; empty without xdist."""
    return getattr(config, "workerinput", {})


def _owner(config: pytest.Config) -> int:
    return int(_worker_input(config).get(OWNER, os.getpid()))


def _running_cluster(kubeconfig: Path) -> LocalCluster:
    local = LocalCluster(kubeconfig.resolve().parent)
    if not local.running():
        raise RuntimeError(
            f"FLASH_KUBECONFIG={kubeconfig}: no local cluster runs there; unset it, or start one: make cluster-up"
        )
    return local
