"""The Debian packages that a whole cluster needs: what Go modules cannot give."""

import os
import shutil
import subprocess
from pathlib import Path

from failure_reason import reason_in

PROGRAMS = {
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
}
CNI_FOLDER = Path("/usr/lib/cni")
CNI_PLUGINS = ("bridge", "host-local", "loopback")
CNI_PACKAGE = "containernetworking-plugins"


class MissingPackagesError(RuntimeError):
    """Packages are missing, and cannot be installed; the message says what can be done."""


def missing_packages() -> list[str]:
    """Names of the packages that are not installed."""
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None]
    plugins = all((CNI_FOLDER / plugin).exists() for plugin in CNI_PLUGINS)
    return missing if plugins else [*missing, CNI_PACKAGE]


def install_command(packages: list[str]) -> str:
    return f"apt-get install -y --no-install-recommends {' '.join(packages)}"


def ensure_packages() -> None:
    """Install what is missing as root; otherwise raise with the one command that does it, and why."""
    missing = missing_packages()
    if not missing:
        return
    command = install_command(missing)
    if os.geteuid() != 0:
        raise MissingPackagesError(
            f"the local cluster runs containers and a network bridge; once, as root: apt-get update && {command}"
        )
    if shutil.which("apt-get") is None:
        raise MissingPackagesError(f"there is no apt-get here; install what Debian calls {' '.join(missing)}")
    print(f"    installing {' '.join(missing)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in ("apt-get update -qq --error-on=any", f"{command} -qq"):
        done = subprocess.run(step.split(), env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise MissingPackagesError(f"{' '.join(missing)} could not be installed: {reason_in(done.stderr)}")
