"""The demo's cluster on kind, for machines where Docker runs.

Never run where this was written, which has no Docker engine: the commands follow kind's documentation
(kind.sigs.k8s.io, "Loading an Image Into Your Cluster" and "Extra Mounts").
"""

import json
import shutil
import subprocess
import time
from pathlib import Path

NAME = "deepseek-flash"
NODE = f"{NAME}-control-plane"


class KindCluster:
    """A kind cluster with the same interface as the local one."""

    programs: tuple[str, ...] = ()
    """kind brings its own."""

    def __init__(self) -> None:
        missing = [tool for tool in ("docker", "kind", "kubectl", "helm") if shutil.which(tool) is None]
        if missing:
            raise RuntimeError(f"make demo CLUSTER=kind needs {', '.join(missing)} on PATH; `make demo` does not")
        self.kubeconfig = Path.home() / ".kube" / f"{NAME}.conf"
        self.helm = Path("helm")
        self.kubectl_path = Path("kubectl")

    def prepare(self) -> None:
        """Docker is there already."""

    def start(self, models: Path) -> None:
        """Create the cluster with the models mounted, unless it is there; then give its node two GPUs."""
        clusters = subprocess.run(["kind", "get", "clusters"], check=True, capture_output=True, text=True).stdout
        if NAME not in clusters.split():
            template = Path(__file__).with_name("kind.yaml").read_text()
            subprocess.run(
                ["kind", "create", "cluster", "--config", "-", "--kubeconfig", str(self.kubeconfig)],
                input=template.replace("MODELS", str(models)),
                check=True,
                text=True,
            )
        gpus = {"nvidia.com/gpu": "2"}
        patch = json.dumps({"status": {"capacity": gpus, "allocatable": gpus}})
        self.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", f"--patch={patch}")

    def import_image(self, archive: Path) -> float:
        """Load an image archive. Returns the seconds it took."""
        began = time.monotonic()
        subprocess.run(["kind", "load", "image-archive", str(archive), "--name", NAME], check=True)
        return time.monotonic() - began

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(self.kubectl_path), f"--kubeconfig={self.kubeconfig}", *args]
        return subprocess.run(command, input=stdin, check=check, capture_output=True, text=True)

    def down(self) -> None:
        subprocess.run(["kind", "delete", "cluster", "--name", NAME], check=True)
