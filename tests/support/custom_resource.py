"""Our CRD on a real API server."""

from pathlib import Path

from local_cluster.control_plane import ControlPlane
from waiting import eventually

CRD = Path(__file__).resolve().parents[2] / "crds" / "deepseekflashdeployments.yaml"
ESTABLISHED = '-o=jsonpath={.status.conditions[?(@.type=="Established")].status}'


def install_crd(server: ControlPlane) -> None:
    """Apply the CRD, and wait until the server serves it.

    `kubectl wait` does not do: it ends with an error where it meets the CRD before that has any condition.
    """
    server.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    eventually(lambda: server.kubectl("get", "-f", str(CRD), ESTABLISHED).stdout == "True", "the CRD is established")
