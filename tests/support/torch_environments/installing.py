"""Runs the programs that build an environment. Their output is shown only if they fail, as one sentence."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from failure_reason import NO_NETWORK, NO_ROOM
from image_builder import debian
from image_builder.debian import SetupError
from torch_environments.kept import full_disk

CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
COMPILING: Final = {"g++": "g++", "readelf": "binutils"}
"""What the stubs in place of CUDA libraries are made with. Program -> Debian package."""

DIES_WITH_US: Final = ("setpriv", "--pdeathsig=KILL") if shutil.which("setpriv") else ()
"""A program that outlived a killed run would write into a folder that the next run cleans up."""


def packages(cache: Path, lock: Path, *where: str, downloads: Path | None = None) -> None:
    """Install what `lock` pins, each file checked by hash. `where` is the installer's --python, and --target.

    `downloads` is for what nobody installs a second time; all else comes from the cache that the image builds use,
    which has torch already where an engine image was built. Files are hard links into it. They are compiled here,
    because vLLM would otherwise compile 2,700 of them at its first start, in a test that waits for it.
    """
    uv = Path(sys.executable).with_name("uv")
    environment = {**os.environ, "UV_LINK_MODE": "hardlink", "UV_COMPILE_BYTECODE": "1", **_uv_cache(cache, downloads)}
    if CERTIFICATES.exists():
        environment["SSL_CERT_FILE"] = str(CERTIFICATES)
    install = ("pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(lock))
    run(cache, [str(uv), *install, *where], environment)


def _uv_cache(cache: Path, downloads: Path | None) -> dict[str, str]:
    """The image builder's cache belongs to root, and other users cannot read it."""
    shared = downloads or cache / "buildah/uv"
    shared.mkdir(parents=True, exist_ok=True)
    return {"UV_CACHE_DIR": str(shared)} if os.access(shared, os.W_OK) else {}


def run(cache: Path, command: Iterable[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        [*DIES_WITH_US, *command],
        env=environment and dict(environment),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise _failure(cache, " ".join(command), done.stdout, done.returncode)


def _failure(cache: Path, command: str, said: str, code: int) -> SetupError:
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "without a word")
    if NO_ROOM.search(said):
        return full_disk(cache)
    if NO_NETWORK.search(said):
        cause = re.sub(r"^caused? ?(by)?: ", "", last, flags=re.IGNORECASE)
        return SetupError(f"The package registry cannot be reached ({cause}): fix that and run this again")
    shown = "\n".join(said.splitlines()[-20:])
    return SetupError(f"{shown}\n`{command}` ended with {code}: {last}")


def require_compiler() -> None:
    """Installed if run as root; otherwise named in the error."""
    missing = debian.missing_packages(COMPILING)
    if not missing:
        return
    message = f"The environments with torch need {' and '.join(missing)}: {debian.install_command(missing)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SetupError(message)
    try:
        debian.install(missing)
    except subprocess.CalledProcessError as error:
        raise SetupError(message) from error
