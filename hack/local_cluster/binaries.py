"""Kubernetes, etcd, containerd and helm, built from their Go modules and kept by content.

Each folder under `tools/` is a Go module that pins one project. They are apart because the projects pin versions of
the same libraries that do not go together.
"""

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from local_cluster.cache import cache_dir, exclusive

TOOLS = Path(__file__).with_name("tools")
KUBERNETES_VERSION = "1.36.3"
PROGRESS_SECONDS = 10


class MissingGoError(RuntimeError):
    """There is no Go toolchain that could build the cluster."""


class BuildError(RuntimeError):
    """The Go toolchain refused; the message ends with its own words."""


@dataclass(frozen=True)
class Binary:
    """One program: the module under `tools/` that pins it, and its import path."""

    module: str
    package: str
    ldflags: str = "-s -w"
    cgo: bool = True


_MAJOR, _MINOR, _ = KUBERNETES_VERSION.split(".")
_VERSION = "k8s.io/component-base/version"
# Without these the API server reports version 0.0 and clients refuse it.
_KUBERNETES_LDFLAGS = (
    f"-s -w -X {_VERSION}.gitVersion=v{KUBERNETES_VERSION} "
    f"-X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR}"
)


def _kubernetes(name: str) -> Binary:
    return Binary("kubernetes", f"k8s.io/kubernetes/cmd/{name}", _KUBERNETES_LDFLAGS)


BINARIES = {
    "etcd": Binary("etcd", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": _kubernetes("kube-apiserver"),
    "kubectl": _kubernetes("kubectl"),
    "kube-controller-manager": _kubernetes("kube-controller-manager"),
    "kube-scheduler": _kubernetes("kube-scheduler"),
    "kubelet": _kubernetes("kubelet"),
    "kube-proxy": _kubernetes("kube-proxy"),
    "containerd": Binary("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    "containerd-shim-runc-v2": Binary("containerd", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
    "ctr": Binary("containerd", "github.com/containerd/containerd/v2/cmd/ctr"),
    "helm": Binary("helm", "helm.sh/helm/v4/cmd/helm"),
    # Static: it is the only file of the pause image.
    "pause": Binary("pause", "local-cluster/pause", cgo=False),
    # The image that tests of the cluster itself run.
    "web": Binary("web", "local-cluster/web", cgo=False),
    # The image that stands for the test of GPU links where there are no GPUs.
    "probe-stub": Binary("probe-stub", "local-cluster/probe-stub", cgo=False),
    # Where tests of images as models push them.
    "registry": Binary("registry", "github.com/distribution/distribution/v3/cmd/registry", cgo=False),
}
PROGRAMS = tuple(name for name in BINARIES if name not in ("web", "probe-stub", "registry"))
CONTROL_PLANE = ("etcd", "kube-apiserver", "kubectl")


def binary(name: str) -> Path:
    """The program of that name, built where it is missing."""
    return build([name])[name]


def build(names: Iterable[str] = BINARIES, *, progress: bool = False) -> dict[str, Path]:
    """Build what is missing, one after the other, telling the seconds of each. Returns all paths by name."""
    paths = {name: _folder(BINARIES[name].module) / name for name in names}
    if any(not path.exists() for path in paths.values()):
        with exclusive(cache_dir("bin") / ".lock"):
            for name, path in paths.items():
                if not path.exists():
                    _build(name, path, progress=progress)
    return paths


def content_key(module: Path, recipes: Mapping[str, Binary], go_version: str) -> str:
    """Of everything that decides the result, so that a change of a pin never finds an old binary."""
    digest = hashlib.sha256()
    for file in sorted(module.glob("*")):
        digest.update(file.name.encode() + file.read_bytes())
    for name, recipe in recipes.items():
        digest.update(f"{name} {recipe}".encode())
    digest.update(go_version.encode())
    return digest.hexdigest()[:16]


@cache
def _folder(module: str) -> Path:
    recipes = {name: recipe for name, recipe in BINARIES.items() if recipe.module == module}
    return cache_dir("bin", f"{module}-{content_key(TOOLS / module, recipes, _go_version())}")


@cache
def _go_version() -> str:
    go = shutil.which("go")
    if go is None:
        raise MissingGoError("the local cluster is built from Go modules: install Go 1.26 or newer, and put it on PATH")
    return subprocess.run([go, "env", "GOVERSION"], check=True, capture_output=True, text=True).stdout.strip()


def _build(name: str, target: Path, *, progress: bool) -> None:
    recipe = BINARIES[name]
    print(f"    building {name} ...", flush=True)
    began = time.monotonic()
    unfinished = target.with_name(f".{name}.unfinished")
    environment = {**os.environ, "CGO_ENABLED": "1" if recipe.cgo else "0", "GOFLAGS": "-mod=readonly"}
    command = ["go", "build", "-ldflags", recipe.ldflags, "-o", str(unfinished), recipe.package]
    with subprocess.Popen(
        command, cwd=TOOLS / recipe.module, env=environment, stderr=subprocess.PIPE, text=True
    ) as compiler:
        words = _last_words(compiler, name, began, progress=progress)
    if compiler.returncode != 0:
        raise BuildError(f"building {name} failed: {' '.join(command)}\n{words[-4000:]}")
    unfinished.rename(target)
    print(f"    built {name} in {time.monotonic() - began:.0f} s", flush=True)


def _last_words(compiler: subprocess.Popen[str], name: str, began: float, *, progress: bool) -> str:
    """Wait for the compiler. The larger programs take minutes from cold, and it says nothing meanwhile."""
    while True:
        try:
            return compiler.communicate(timeout=PROGRESS_SECONDS)[1]
        except subprocess.TimeoutExpired:
            if progress:
                print(f"    building {name}, {time.monotonic() - began:.0f} s so far", flush=True)
