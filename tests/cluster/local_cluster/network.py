"""The pod network: one bridge that the host shares, so that pods and cluster addresses are reachable from here.

The API server listens on the bridge's own address. So pods reach it without any interface of the machine, and
nothing outside the machine can.
"""

import json
import os
import subprocess
from pathlib import Path

BRIDGE = "flash0"
GATEWAY = "10.244.0.1"
POD_RANGE = "10.244.0.0/24"
CNI_NAME = "local-cluster"
CNI_RESULTS = Path("/var/lib/cni/results")


def make_bridge() -> None:
    """Make the bridge and give it the gateway's address."""
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def bridge_exists() -> bool:
    return Path("/sys/class/net", BRIDGE).exists()


def write_cni_config(folder: Path, state: Path) -> None:
    """CNI's bridge plugin on our bridge, with its address book inside the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ipam = {
        "type": "host-local",
        "dataDir": str(state),
        "ranges": [[{"subnet": POD_RANGE, "gateway": GATEWAY}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True, "ipMasq": False, "ipam": ipam}
    config = {"cniVersion": "1.0.0", "name": CNI_NAME, "plugins": [bridge]}
    (folder / "10-bridge.conflist").write_text(json.dumps(config, indent=1))


def remove_bridge() -> None:
    """Remove the bridge and what CNI remembers of it."""
    if bridge_exists():
        _ip("link", "delete", BRIDGE)
    for result in CNI_RESULTS.glob(f"{CNI_NAME}-*"):
        result.unlink()


def veths() -> list[str]:
    """Host ends of pods that hang on our bridge."""
    return [link.name for link in Path("/sys/class/net", BRIDGE, "brif").glob("*")]


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, env=_environment())


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
