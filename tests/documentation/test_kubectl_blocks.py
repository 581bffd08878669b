"""Blocks of kubectl and helm, run on a real API server of their own, where the chart is installed as the pages say.

Nothing runs in its pods, so `kubectl exec` only asks for what it would enter. Words in capitals are replaced.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crd_stub import a_crd_stub
from documentation.command_blocks import ROOT, Block, blocks_run_by
from image_builder.product import PRODUCTS
from image_builder.values_file import PushedImage, write_values
from local_cluster.binaries import binary
from local_cluster.control_plane import ControlPlane, a_light_control_plane
from published_crds import FIRST_POOL, HTTP_ROUTE
from rendered_chart import bundle
from waiting import eventually

pytestmark = pytest.mark.apiserver

BLOCKS = blocks_run_by("tests/documentation/test_kubectl_blocks.py::test_the_block_runs")
WORDS = {"NAMESPACE": "models", "NAME": "flash", "NODE": "node-1", "REVISION": "0123456789ab"}

KUBECTL = """\
#!/bin/bash
arguments=()
for argument in "$@"; do
  case "$argument" in
    exec) arguments+=(get) ;;
    -w) arguments+=(--watch=false) ;;
    --) break ;;
    *) arguments+=("$argument") ;;
  esac
done
exec {kubectl} --kubeconfig={kubeconfig} --cache-dir={cache} "${{arguments[@]}}"
"""

TAINT = {"key": "startup-taint.cluster-autoscaler.kubernetes.io/flash-links", "effect": "NoSchedule"}
SCALED_OBJECTS = a_crd_stub("ScaledObject", "keda.sh", "v1alpha1")
"""Enough of KEDA's to have one annotated."""


def an_object(kind: str, name: str, namespace: str | None = None, api: str = "v1", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **more}


@pytest.fixture(scope="module")
def server() -> Iterator[ControlPlane]:
    """With what the pages take for granted: namespaces, a node with labels, Argo CD's ConfigMap, CRDs of others."""
    plane = a_light_control_plane()
    namespaces = [an_object("Namespace", name) for name in ("models", "team-a", "argocd")]
    node = an_object("Node", "node-1", spec={"taints": [TAINT]})
    node["metadata"]["labels"] = {"deepseekflash.dev/gpu-p2p": "verified"}
    plane.kubectl("apply", "-f", "-", stdin=bundle([*namespaces, node, SCALED_OBJECTS]))
    for crd in (HTTP_ROUTE, FIRST_POOL):
        plane.kubectl("apply", "--server-side", "-f", str(crd.file()))
    scaled = an_object("ScaledObject", "flash", "models", "keda.sh/v1alpha1")
    eventually(lambda: _is_taken(plane, scaled), "the CRDs are served")
    plane.kubectl("apply", "-f", "-", stdin=bundle([an_object("ConfigMap", "argocd-cm", "argocd")]))
    yield plane
    plane.stop()


def _is_taken(plane: ControlPlane, document: dict[str, Any]) -> bool:
    return plane.kubectl("apply", "-f", "-", stdin=json.dumps(document), check=False).returncode == 0


@pytest.fixture(scope="module")
def clone(server: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a clone after `make images PUSH=`, with the chart installed and a deployment called flash."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("charts", "examples"):
        (folder / name).symlink_to(ROOT / name)
    digest = f"sha256:{'a' * 64}"
    pushed = {
        image.name: PushedImage(f"registry.example.org/team/flash-{image.name}", "0.1.0", digest) for image in PRODUCTS
    }
    write_values(pushed, folder / "build/images/values.yaml")
    programs = folder / "programs"
    programs.mkdir()
    kubectl = KUBECTL.format(kubectl=server.kubectl_path, kubeconfig=server.kubeconfig, cache=server.run / "kubectl")
    (programs / "kubectl").write_text(kubectl)
    (programs / "kubectl").chmod(0o755)
    (programs / "helm").symlink_to(binary("helm"))
    (install,) = (block for block in BLOCKS if block.page == "docs/quickstart.md" and "helm install" in block.text)
    run(install.text, folder, server)
    minimal = yaml.safe_load((ROOT / "examples/minimal.yaml").read_text())
    eventually(lambda: _is_taken(server, minimal), "the CRD is served")
    server.kubectl("apply", "--namespace", "models", "-f", str(ROOT / "examples/minimal.yaml"))
    return folder


def run(text: str, folder: Path, server: ControlPlane) -> str:
    """Run it in bash; any failing command is a failure. Returns what it printed."""
    for word, value in WORDS.items():
        text = re.sub(rf"\b{word}\b", value, text)
    environment = {
        **os.environ,
        "PATH": f"{folder / 'programs'}:{os.environ['PATH']}",
        "KUBECONFIG": str(server.kubeconfig),
        "HELM_CACHE_HOME": str(folder / "helm"),
    }
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_the_block_runs(block: Block, clone: Path, server: ControlPlane) -> None:
    if "helm install" in block.text:
        run("helm uninstall flash --namespace deepseek-flash-system", clone, server)
    run(block.text, clone, server)


def test_a_command_that_fails_is_found(clone: Path, server: ControlPlane) -> None:
    with pytest.raises(AssertionError, match="not found"):
        run("kubectl get dsf nobody\nkubectl get nodes", clone, server)
