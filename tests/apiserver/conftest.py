"""The CRD on a real kube-apiserver."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from builders import a_flash_object
from cluster_fixtures import ControlPlane
from custom_resource import install_crd

Apply = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def crd_server(api_server: ControlPlane) -> ControlPlane:
    """The API server with our CRD established."""
    install_crd(api_server)
    return api_server


@pytest.fixture
def apply(crd_server: ControlPlane) -> Iterator[Apply]:
    """Apply one object strictly, as `kubectl apply --validate=strict` does; what was taken is deleted afterwards."""
    taken = False

    def run(document: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
        nonlocal taken
        done = crd_server.kubectl(
            "apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(document), check=False
        )
        taken = taken or done.returncode == 0
        return done

    yield run
    if taken:
        crd_server.kubectl("delete", "dsf", "--all", "-A")


@pytest.fixture
def apply_spec(apply: Apply) -> Apply:
    """Apply a deployment of this name with the least spec, and these parts of it changed."""

    def run(name: str = "flash", **spec: Any) -> "subprocess.CompletedProcess[str]":
        return apply({**a_flash_object(name, **spec), "metadata": {"name": name, "namespace": "default"}})

    return run
