"""Our CRD on a real API server."""

import json
from pathlib import Path

from local_cluster.control_plane import ControlPlane
from waiting import eventually

CRD = Path(__file__).resolve().parents[2] / "crds" / "deepseekflashdeployments.yaml"


def install_crd(server: ControlPlane) -> None:
    """Apply the CRD, and wait until the server serves it.

    `kubectl wait` and a jsonpath both fail on a CRD that has no conditions yet.
    """
    server.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    eventually(lambda: _is_established(server), "the CRD is established")


def _is_established(server: ControlPlane) -> bool:
    live = json.loads(server.kubectl("get", "-f", str(CRD), "-o=json").stdout)
    conditions = live.get("status", {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
