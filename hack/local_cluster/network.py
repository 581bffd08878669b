"""The pod network: one bridge that the host shares, so that pods and cluster addresses are reachable from here.

The API server listens on the bridge's own address. So pods reach it without any interface of the machine, and
nothing outside the machine can.
"""

import ipaddress
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

CNI_NAME = "local-cluster"
LINKS = Path("/sys/class/net")


class AddressesTakenError(RuntimeError):
    """The machine already uses the bridge's name or the cluster's addresses."""


@dataclass(frozen=True)
class Network:
    """Names and addresses. FLASH_CLUSTER_<NAME> changes one that the machine uses for something else."""

    bridge: str = "flash0"
    pods: str = "10.244.0.0/24"
    services: str = "10.96.0.0/16"
    api_port: str = "6443"

    @classmethod
    def chosen(cls, environment: Mapping[str, str] = os.environ) -> "Network":
        names = {field.name: f"FLASH_CLUSTER_{field.name.upper()}" for field in fields(cls)}
        return cls(**{name: environment[variable] for name, variable in names.items() if variable in environment})

    @property
    def gateway(self) -> str:
        return first_address(self.pods)

    def make(self) -> None:
        """Make the bridge and give it the gateway's address."""
        size = ipaddress.ip_network(self.pods).prefixlen
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.gateway}/{size}", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        # A packet to a Service's address is rewritten only after routing. On a machine without a default route, it
        # would never be sent without this one.
        ip("route", "add", self.services, "dev", self.bridge)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def links(self) -> list[str]:
        """The bridge, and the host ends of pods that hang on it, the bridge last."""
        folder = LINKS / self.bridge
        return [*(link.name for link in (folder / "brif").glob("*")), *([self.bridge] if folder.exists() else [])]

    def remove(self) -> None:
        """Deletes them now, because a host end disappears only some time after its pod."""
        for link in self.links():
            ip("link", "delete", link, check=link == self.bridge)

    def write_cni_config(self, folder: Path, state: Path) -> None:
        """CNI's bridge plugin on our bridge, with its address allocations in the run folder."""
        folder.mkdir(parents=True, exist_ok=True)
        ipam = {
            "type": "host-local",
            "dataDir": str(state),
            "ranges": [[{"subnet": self.pods, "gateway": self.gateway}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        plugin = {
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": True,
            "hairpinMode": True,
            "ipMasq": False,
            "ipam": ipam,
        }
        config = {"cniVersion": "1.0.0", "name": CNI_NAME, "plugins": [plugin]}
        (folder / "10-bridge.conflist").write_text(json.dumps(config, indent=1))

    def refuse_strangers(self) -> None:
        """Called after our own leftovers were removed and before anything is recorded as ours."""
        if (LINKS / self.bridge).exists():
            raise AddressesTakenError(
                f"a link {self.bridge} exists that no local cluster made: choose another name by FLASH_CLUSTER_BRIDGE, "
                f"or remove it: ip link delete {self.bridge}"
            )
        for name in ("pods", "services"):
            wanted = ipaddress.ip_network(getattr(self, name))
            taken = [route for route in _routes() if route.overlaps(wanted)]
            if taken:
                raise AddressesTakenError(
                    f"the machine already routes {taken[0]}, and the cluster's {name} would have {wanted}: "
                    f"choose others by FLASH_CLUSTER_{name.upper()}"
                )


def first_address(addresses: str) -> str:
    return str(next(ipaddress.ip_network(addresses).hosts()))


def ip(*args: str, check: bool = True) -> str:
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    done = subprocess.run(["ip", *args], check=False, capture_output=True, text=True, env=environment)
    if check and done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(args)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _routes() -> list[ipaddress.IPv4Network]:
    routes = json.loads(ip("-json", "-4", "route", "show") or "[]")
    return [ipaddress.IPv4Network(route["dst"]) for route in routes if route["dst"] != "default"]
