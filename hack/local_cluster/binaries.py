"""Kubernetes, etcd, containerd and helm, built from their Go modules and kept by content.

`tools/` is one Go module that pins all of them. So all programs share one version of each library, what one has
compiled serves the others, and one `go build` orders the work of all.
"""

import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

from failure_reason import reason_in
from local_cluster.cache import cache_dir, exclusive
from local_cluster.go_toolchain import go, go_environment, go_version

TOOLS = Path(__file__).with_name("tools")
KUBERNETES_VERSION = "1.36.3"
PROGRESS_SECONDS = 10


class BuildError(RuntimeError):
    """The Go toolchain failed; the message ends with its output."""


_KUBERNETES = "k8s.io/kubernetes/cmd"
_CONTAINERD = "github.com/containerd/containerd/v2/cmd"

BINARIES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": f"{_KUBERNETES}/kube-apiserver",
    "kubectl": f"{_KUBERNETES}/kubectl",
    "kube-controller-manager": f"{_KUBERNETES}/kube-controller-manager",
    "kube-scheduler": f"{_KUBERNETES}/kube-scheduler",
    "kubelet": f"{_KUBERNETES}/kubelet",
    "kube-proxy": f"{_KUBERNETES}/kube-proxy",
    "containerd": f"{_CONTAINERD}/containerd",
    "containerd-shim-runc-v2": f"{_CONTAINERD}/containerd-shim-runc-v2",
    "ctr": f"{_CONTAINERD}/ctr",
    "helm": "helm.sh/helm/v4/cmd/helm",
    # The only file in the pause image.
    "pause": "./pause",
    # The image that tests of the cluster itself run.
    "web": "./web",
    # The image that replaces the p2p test where there are no GPUs.
    "probe-stub": "./probe-stub",
    # The registry to which tests push models.
    "registry": "./registry",
}
"""Program -> its package."""

PROGRAMS = tuple(name for name in BINARIES if name not in ("web", "probe-stub", "registry"))
CONTROL_PLANE = ("etcd", "kube-apiserver", "kubectl")

_MAJOR, _MINOR, _ = KUBERNETES_VERSION.split(".")
_VERSION = "k8s.io/component-base/version"
# Without the versions the API server reports 0.0 and clients refuse it. What is no part of a program is not set in it.
_LDFLAGS = (
    f"-s -w -X {_VERSION}.gitVersion=v{KUBERNETES_VERSION} "
    f"-X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR}"
)
# What debuggers read is left out at the end, so it is not written before: a tenth less to compile.
FLAGS = ("-ldflags", _LDFLAGS, "-gcflags", "all=-dwarf=false")


def binary(name: str) -> Path:
    """The program of that name, built if it is missing."""
    return build([name])[name]


def build(names: Iterable[str] = BINARIES) -> dict[str, Path]:
    """Build missing programs, and report progress every few seconds. Returns all paths by name."""
    paths = {name: folder() / name for name in names}
    if not all(path.exists() for path in paths.values()):
        with exclusive(cache_dir("bin") / ".lock", "another run that builds programs"):
            missing = [name for name, path in paths.items() if not path.exists()]
            if missing:
                _build(missing)
    return paths


def content_key(module: Path, flags: Sequence[str], version: str) -> str:
    """A hash of everything that affects the result, so that a changed pin never finds an old binary."""
    digest = sha256(f"{tuple(flags)} {version} {BINARIES}".encode())
    for file in sorted(file for file in module.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(module)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@cache
def folder() -> Path:
    return cache_dir("bin", content_key(TOOLS, FLAGS, go_version()))


def _build(names: Sequence[str]) -> None:
    """Go caches compiled packages, so a killed build continues where it was."""
    began = time.monotonic()
    print(f"    building {', '.join(names)}", flush=True)
    packages = [BINARIES[name] for name in names]
    needed = len(_go(["list", "-deps", *packages], "fetching modules: {lines}").split())
    unfinished = folder().with_name(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = ["build", "-v", *FLAGS, "-o", f"{unfinished}/", *packages]
    _go(command, f"compiled {{lines}} of at most {needed} packages")
    for name in names:
        (unfinished / _name_of_go(BINARIES[name])).rename(folder() / name)
    unfinished.rmdir()
    print(f"    built {', '.join(names)} in {time.monotonic() - began:.0f} s", flush=True)


def _name_of_go(package: str) -> str:
    """The last part of the path that is not a version."""
    parts = [part for part in package.split("/") if part != "v3"]
    return parts[-1]


def _go(arguments: Sequence[str], progress: str) -> str:
    """Run Go, and tell of each few seconds how many lines it has written to stderr. Returns what it wrote to stdout.

    It dies with us: one that outlived its killed starter would compile beside the next.
    """
    command = ["setpriv", "--pdeathsig=KILL", str(go()), *arguments]
    began = time.monotonic()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=TOOLS, env=go_environment(), stdout=pipe, stderr=pipe) as process:
        while True:
            try:
                out, words = process.communicate(timeout=PROGRESS_SECONDS)
                break
            except subprocess.TimeoutExpired as waiting:
                lines = (waiting.stderr or b"").count(b"\n")
                print(f"    {progress.format(lines=lines)}, {time.monotonic() - began:.0f} s so far", flush=True)
            except BaseException:
                process.kill()
                raise
    if process.returncode != 0:
        raise BuildError(f"go {arguments[0]} failed: {reason_in(words.decode(errors='replace'))}")
    return out.decode()
