"""Runs buildah with its own storage below the cache folder, and leaves nothing mounted."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from failure_reason import reason_in

HOST_CERTIFICATES: Final = Path("/etc/ssl/certs")
"""The host's CA certificates, for packages that come through a TLS-intercepting proxy. Mounted while a step runs; never
part of an image."""

PACKAGE_CACHE: Final = "/root/.cache/uv"


class BuildError(RuntimeError):
    pass


@dataclass(frozen=True)
class Base:
    """Labels of an image that name its base."""

    name: str
    digest: str

    def options(self) -> list[str]:
        """For the Dockerfile's labels, and for the manifest, where buildah would name the previous stage."""
        return [
            f"--build-arg=BASE_NAME={self.name}",
            f"--build-arg=BASE_DIGEST={self.digest}",
            f"--annotation=org.opencontainers.image.base.name={self.name}",
            f"--annotation=org.opencontainers.image.base.digest={self.digest}",
        ]


@dataclass(frozen=True)
class Buildah:
    folder: Path
    driver: str
    running: set["subprocess.Popen[str]"] = field(default_factory=set, compare=False)

    @classmethod
    def below(cls, cache: Path) -> "Buildah":
        """With overlay where the kernel lets us mount it on this file system; vfs copies every layer, but works
        anywhere."""
        folder = cache / "buildah"
        for part in ("run", "tmp", "uv"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        overlay = cls(folder, "overlay")
        works = subprocess.run(overlay.command("info"), env=overlay.environment(), capture_output=True, check=False)
        return overlay if works.returncode == 0 else cls(folder, "vfs")

    def command(self, *arguments: str) -> list[str]:
        storage, run = self.folder / f"storage-{self.driver}", self.folder / "run"
        # Ends with its parent: an orphaned build would use the storage while the next one cleans it up.
        dies_with_us = ("setpriv", "--pdeathsig=KILL")
        return [
            *dies_with_us,
            "buildah",
            f"--root={storage}",
            f"--runroot={run}",
            f"--storage-driver={self.driver}",
            *arguments,
        ]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self.folder / "tmp")}

    def run(self, *arguments: str) -> str:
        """Runs to the end and returns the output, which is printed only on failure."""
        with subprocess.Popen(
            self.command(*arguments),
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            self.running.add(process)
            try:
                output, _ = process.communicate()
            except BaseException:
                process.kill()
                raise
            finally:
                self.running.discard(process)
        if process.returncode != 0:
            raise BuildError(f"buildah {arguments[0]} ended with {process.returncode}: {reason_in(output)}")
        return output

    def stop(self) -> None:
        """Ends the processes of other threads, each of which gets a BuildError."""
        for process in list(self.running):
            process.kill()

    def has(self, reference: str) -> bool:
        listed = self.run("images", "--format={{.Name}}:{{.Tag}}", "--noheading")
        return reference in listed.split()

    def digest(self, reference: str) -> str:
        """Of the image's manifest: as in the archive that `export` makes one of."""
        return self.run("inspect", "--type=image", "--format={{.FromImageDigest}}", reference).strip()

    def build(self, context: Path, dockerfile: Path, reference: str, base: Base | None = None) -> None:
        self.run(
            "build",
            "--pull-never",
            "--jobs=2",  # stages that do not wait for each other: one downloads while the other unpacks
            *self.volumes(),
            *(base.options() if base else ()),
            f"--file={dockerfile}",
            f"--tag={reference}",
            str(context),
        )

    def volumes(self) -> Sequence[str]:
        mounts = [f"--volume={self.folder / 'uv'}:{PACKAGE_CACHE}"]
        if (HOST_CERTIFICATES / "ca-certificates.crt").exists():
            mounts.append(f"--volume={HOST_CERTIFICATES}:{HOST_CERTIFICATES}:ro")
        return mounts

    def export(self, reference: str, directory: Path) -> None:
        """All blobs of an image, layers as they are in the storage: not compressed."""
        self.run("push", "--disable-compression", "--format=oci", "--quiet", reference, f"dir:{directory}")

    def remove_others(self, reference: str) -> None:
        """Removes older builds of the same image, whose layers can be gigabytes."""
        name = reference.rpartition(":")[0]
        listed = self.run("images", "--format={{.Name}}:{{.Tag}}", "--noheading").split()
        for old in listed:
            if old.rpartition(":")[0] == name and old != reference:
                self.run("rmi", "--force", old)

    @contextmanager
    def session(self) -> Iterator["Buildah"]:
        """Removes working containers of killed builds, and mounts of this one."""
        for left in (self.folder / "tmp").iterdir():
            shutil.rmtree(left)
        try:
            self.run("rm", "--all")
            yield self
        finally:
            self.run("rm", "--all")
            for mount in mounts_below(self.folder):
                subprocess.run(["umount", mount], check=True)


def mounts_below(folder: Path) -> list[str]:
    """Deepest first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].replace("\\040", " ") for line in lines]
    return sorted((point for point in points if Path(point).is_relative_to(folder)), reverse=True)
