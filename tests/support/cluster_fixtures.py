"""pytest fixtures: a real API server, and a real cluster, each started once in a run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cluster.cluster import LocalCluster
from local_cluster.control_plane import ControlPlane, a_light_control_plane

__all__ = ["ControlPlane", "LocalCluster"]

BOOT_SECONDS = pytest.StashKey[float]()


@pytest.fixture(scope="session")
def api_server() -> Iterator[ControlPlane]:
    """etcd and kube-apiserver alone: no controllers, no nodes, no root."""
    plane = a_light_control_plane()
    yield plane
    plane.stop()


@pytest.fixture(scope="session")
def older_api_server() -> Iterator[ControlPlane]:
    """It behaves as Kubernetes 1.34 does: no image volumes yet."""
    plane = a_light_control_plane("--emulated-version=1.34")
    yield plane
    plane.stop()


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[LocalCluster]:
    """The whole cluster of this run. FLASH_KUBECONFIG names one that runs already; that is used and left running."""
    kubeconfig = os.environ.get("FLASH_KUBECONFIG")
    if kubeconfig:
        yield _running_cluster(Path(kubeconfig))
        return
    local = LocalCluster()
    pytestconfig.stash[BOOT_SECONDS] = local.up(kept=False)
    yield local
    local.down()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if BOOT_SECONDS in config.stash:
        terminalreporter.write_line(f"local cluster: booted in {config.stash[BOOT_SECONDS]:.1f} s")


def _running_cluster(kubeconfig: Path) -> LocalCluster:
    local = LocalCluster(kubeconfig.resolve().parent)
    if not local.running():
        raise RuntimeError(
            f"FLASH_KUBECONFIG={kubeconfig}: no local cluster runs there; unset it, or start one: make cluster-up"
        )
    return local
