"""The Debian packages that a whole cluster needs: what Go modules cannot give."""

import os
import shutil
import subprocess
from pathlib import Path

PROGRAMS = {
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
}
CNI_FOLDER = Path("/usr/lib/cni")
CNI_PACKAGE = "containernetworking-plugins"


class MissingPackagesError(RuntimeError):
    """Packages are missing, and only root can install them."""


def missing_packages() -> list[str]:
    """Names of the packages that are not installed."""
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None]
    return missing if (CNI_FOLDER / "bridge").exists() else [*missing, CNI_PACKAGE]


def ensure_packages() -> None:
    """Install what is missing as root; otherwise raise with the one command that does it, and why."""
    missing = missing_packages()
    if not missing:
        return
    command = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0:
        raise MissingPackagesError(
            f"the local cluster runs containers and a network bridge; once, as root: apt-get update && {command}"
        )
    print(f"    installing {' '.join(missing)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in ("apt-get update -qq", f"{command} -qq"):
        subprocess.run(step.split(), check=True, env=environment, stdout=subprocess.DEVNULL)
