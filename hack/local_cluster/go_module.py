"""Programs of one Go module: built together, and kept by the content of what they are built from.

What one program has compiled serves the others, and one `go build` orders the work of all.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from failure_reason import reason_in
from local_cluster.cache import cache_dir, exclusive
from local_cluster.go_toolchain import go, go_environment, go_version

PROGRESS_SECONDS = 10

Go = Callable[[Sequence[str]], str]
"""Runs Go, and returns what it wrote to stdout."""


class BuildError(RuntimeError):
    """The Go toolchain failed; the message ends with its output."""


@dataclass(frozen=True)
class GoModule:
    """A folder with go.mod and go.sum, which pin everything that the programs consist of."""

    pins: Path
    packages: Mapping[str, str]
    """Program -> its package."""
    flags: Sequence[str]
    write_sources: Callable[[Path, Go], None] | None = None
    """Downloads and changes sources, and writes them into the folder of the build. None: `pins` has all of them."""
    manifests: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Name -> module, and the folder in it that is kept beside the programs under this name."""

    @property
    def folder(self) -> Path:
        return cache_dir("bin", content_key(self.pins, self.flags, go_version(), self.packages))

    def build(self, names: Sequence[str]) -> dict[str, Path]:
        """Build missing programs, and report progress every few seconds. Returns the paths by name."""
        paths = {name: self.folder / name for name in names}
        if not all(path.exists() for path in paths.values()):
            with exclusive(cache_dir("bin") / ".lock", "another run that builds programs"):
                missing = [name for name, path in paths.items() if not path.exists()]
                if missing:
                    self._build(missing)
        return paths

    def _build(self, names: Sequence[str]) -> None:
        """Go caches compiled packages, so a killed build continues where it was."""
        began = time.monotonic()
        print(f"    building {', '.join(names)}", flush=True)
        place = self._place()
        packages = [self.packages[name] for name in names]
        needed = len(run_go(place, ["list", "-deps", *packages], "fetching modules: {lines}").split())
        self._keep_manifests(place)
        unfinished = self.folder.with_name(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        command = ["build", "-v", *self.flags, "-o", f"{unfinished}/", *packages]
        run_go(place, command, f"compiled {{lines}} of at most {needed} packages")
        for name, package in zip(names, packages, strict=True):
            (unfinished / _name_of_go(package)).rename(self.folder / name)
        unfinished.rmdir()
        print(f"    built {', '.join(names)} in {time.monotonic() - began:.0f} s", flush=True)

    def _place(self) -> Path:
        """Where Go runs. Sources that are written stay there: Go compiles the same files elsewhere anew."""
        if self.write_sources is None:
            return self.pins
        place = cache_dir("go", "sources") / self.pins.name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        self.write_sources(place, lambda arguments: run_go(place.parent, arguments, "fetching sources: {lines}"))
        for name in ("go.mod", "go.sum"):
            shutil.copy(self.pins / name, place)
        return place

    def _keep_manifests(self, place: Path) -> None:
        for name, (module, folder) in self.manifests.items():
            source = run_go(place, ["list", "-m", "-f", "{{.Dir}}", module], "fetching modules: {lines}").strip()
            shutil.copytree(Path(source, folder), self.folder / name, dirs_exist_ok=True)


def content_key(pins: Path, flags: Sequence[str], version: str, packages: Mapping[str, str]) -> str:
    """A hash of everything that affects the result, so that a changed pin never finds an old binary."""
    digest = sha256(f"{tuple(flags)} {version} {packages}".encode())
    files = (file for file in pins.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    for file in sorted(files):
        digest.update(f"{file.relative_to(pins)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def run_go(place: Path, arguments: Sequence[str], progress: str) -> str:
    """Run Go, and every few seconds report how many lines it has written to stderr. Returns its stdout.

    Go dies with this process: if it outlived a killed starter, it would compile at the same time as the next one.
    """
    command = ["setpriv", "--pdeathsig=KILL", str(go()), *arguments]
    began = time.monotonic()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=place, env=go_environment(), stdout=pipe, stderr=pipe) as process:
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


def _name_of_go(package: str) -> str:
    """The last part of the path that is not a version."""
    parts = [part for part in package.split("/") if part != "v3"]
    return parts[-1]
