"""pytest fixtures: a real API server, and a real cluster, each started once in a run."""

from collections.abc import Iterator

import pytest

from local_cluster.cluster import LocalCluster
from local_cluster.control_plane import ControlPlane, a_light_control_plane

__all__ = ["ControlPlane", "LocalCluster"]


@pytest.fixture(scope="session")
def api_server() -> Iterator[ControlPlane]:
    """etcd and kube-apiserver alone: no controllers, no nodes, no root."""
    plane = a_light_control_plane()
    yield plane
    plane.stop()


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """The whole cluster; one that `make cluster-up` left running is used and left running."""
    local = LocalCluster()
    was_running = local.running()
    local.up()
    yield local
    if not was_running:
        local.down()
