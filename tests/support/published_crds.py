"""CRDs of other projects, from their Go modules: nothing of them is kept in this repository."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster_fixtures import ControlPlane
from local_cluster.cache import cache_dir
from local_cluster.go_module import run_go
from waiting import eventually


class ChangedModuleError(RuntimeError):
    """The archive is not the one that was pinned."""


@dataclass(frozen=True)
class PublishedCrd:
    module: str
    version: str
    checksum: str
    """Of the module's archive, as Go computes it."""
    path: str
    """In the module."""

    def file(self) -> Path:
        """Downloads the module if it is not in Go's cache."""
        arguments = ["mod", "download", "-json", f"{self.module}@{self.version}"]
        found = json.loads(run_go(cache_dir("go"), arguments, "fetching a CRD: {lines}"))
        if found["Sum"] != self.checksum:
            raise ChangedModuleError(f"{self.module}@{self.version} has the checksum {found['Sum']}")
        return Path(found["Dir"], self.path)


_EXTENSION = "sigs.k8s.io/gateway-api-inference-extension"
_POOLS = "config/crd/bases/inference.networking.k8s.io_inferencepools.yaml"

HTTP_ROUTE = PublishedCrd(
    "sigs.k8s.io/gateway-api",
    "v1.4.1",
    "h1:NPxFutNkKNa8UfLd2CMlEuhIPMQgDQ6DXNKG9sHbJU8=",
    "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
)
FIRST_POOL = PublishedCrd(_EXTENSION, "v1.0.0", "h1:GsHvlu1Cn1t6+vrHoPdNNlpwKxf/y1HuQSlUjd58Ds8=", _POOLS)
RECENT_POOL = PublishedCrd(_EXTENSION, "v1.6.0", "h1:cjtwMJYcTnLXBYE5ffR1/hHhn7U1aIFfe2RITYmOXVA=", _POOLS)

MONITORING = tuple(
    PublishedCrd(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.82.0",
        "h1:gqz+z31co8+qaEpsJKGfbrBuaMAPiAo/Z08dBIlSM+E=",
        f"example/prometheus-operator-crd/monitoring.coreos.com_{plural}.yaml",
    )
    for plural in ("podmonitors", "servicemonitors", "prometheusrules")
)


@contextmanager
def installed(server: ControlPlane, crd: PublishedCrd) -> Iterator[None]:
    file = str(crd.file())

    def is_served() -> bool:
        live = json.loads(server.kubectl("get", "-f", file, "-o=json").stdout)
        conditions = live.get("status", {}).get("conditions") or []
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    server.kubectl("apply", "--server-side", "-f", file)
    try:
        eventually(is_served, "the CRD is established")
        yield
    finally:
        server.kubectl("delete", "--wait", "-f", file)
