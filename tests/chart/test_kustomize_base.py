"""The base for `kubectl apply -k` is the chart with its default values."""

import subprocess

import pytest

from kustomize_base import BASE, NAMESPACE, files
from local_cluster.binaries import binary
from rendered_chart import parsed

FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_as_generated(name: str) -> None:
    assert (BASE / name).read_text() == FILES[name], "run `make generate`"


def test_kustomize_builds_all_of_it_and_names_no_helm() -> None:
    done = subprocess.run([str(binary("kubectl")), "kustomize", str(BASE)], capture_output=True, text=True, check=True)
    kinds = [document["kind"] for document in parsed(done.stdout)]
    assert {"Namespace", "CustomResourceDefinition", "Deployment", "DaemonSet", "ClusterRole"} <= set(kinds)
    assert "helm" not in done.stdout.lower()
    assert f"namespace: {NAMESPACE}" in done.stdout
