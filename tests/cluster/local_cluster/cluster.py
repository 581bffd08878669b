"""The whole cluster: one node, every component with its own identity, one of its kind on a machine."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from local_cluster import cgroups
from local_cluster.binaries import BINARIES, binary, build
from local_cluster.cache import cache_dir
from local_cluster.containerd import Containerd
from local_cluster.control_plane import SERVICE_RANGE, ControlPlane
from local_cluster.mounts import mounts_under, unmount_all
from local_cluster.network import GATEWAY, POD_RANGE, make_bridge, remove_bridge, veths
from local_cluster.node import NODE_NAME, Node
from local_cluster.packages import ensure_packages
from local_cluster.packet_filter import kubernetes_rules, remove_kubernetes_rules
from local_cluster.waiting import NotReadyError, wait_until

API_PORT = 6443
COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "containerd",
    "kubelet",
    "kube-proxy",
)


class NotRootError(RuntimeError):
    """The whole cluster runs containers, which needs root."""


class LocalCluster:
    """Starts, finds and stops the cluster in its run folder. A dead one is cleaned away first."""

    def __init__(self, run: Path | None = None) -> None:
        self.run = run or cache_dir("run") / "cluster"
        self.plane = ControlPlane(self.run, address=GATEWAY, port=API_PORT)
        self.containerd = Containerd(self.run, self.plane.processes)
        self.node_name = NODE_NAME

    @property
    def kubeconfig(self) -> Path:
        return self.plane.kubeconfig

    @property
    def kubectl_path(self) -> Path:
        return self.plane.kubectl_path

    @property
    def helm(self) -> Path:
        return binary("helm")

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.plane.kubectl(*args, stdin=stdin, check=check)

    def running(self) -> bool:
        """All components are there, and the API server answers."""
        return (
            not self.dead()
            and self.kubectl("get", "--raw=/readyz", "--request-timeout=2s", check=False).returncode == 0
        )

    def dead(self) -> list[str]:
        """Components that should run and do not."""
        return [program for program in COMPONENTS if not self.plane.processes.pids(program)]

    def up(self) -> float:
        """Start the cluster, unless it runs. Returns the seconds of the boot alone, without builds."""
        if os.geteuid() != 0:
            raise NotRootError("the local cluster runs a kubelet and containers: run it as root, or use kind")
        ensure_packages()
        build(BINARIES)
        if self.running():
            return 0.0
        self.down()
        began = time.monotonic()
        make_bridge()
        self.plane.start()
        self._start_controllers()
        Node(self.plane).start()
        wait_until(self._admits_pods, "the default service account", seconds=30)
        if self.dead():
            raise NotReadyError(f"ended while the cluster booted: {', '.join(self.dead())}; see {self.run / 'logs'}")
        return time.monotonic() - began

    def _admits_pods(self) -> bool:
        """The controller manager makes it a moment after the namespace; pods are refused until then."""
        return self.kubectl("get", "serviceaccount", "default", check=False).returncode == 0

    def down(self) -> None:
        """Stop everything and leave nothing: also what a cluster left that died, or whose starter was killed."""
        processes = self.plane.processes
        for program in ("kubelet", "kube-proxy"):
            processes.stop(program, patience=2)
        self.containerd.stop()
        cgroups.remove_cgroup()
        processes.stop(patience=1)
        unmount_all(self.run)
        remove_kubernetes_rules()
        remove_bridge()
        shutil.rmtree(self.run, ignore_errors=True)

    def leftovers(self) -> dict[str, list[str]]:
        """What is still there of the cluster, by kind; empty lists after `down`."""
        return {
            "processes": [str(pid) for pid in self.plane.processes.pids()],
            "pod processes": [str(pid) for pid in cgroups.members()],
            "mounts": mounts_under(self.run),
            "links": veths(),
            "packet filter": kubernetes_rules(),
            "files": [str(self.run)] if self.run.exists() else [],
        }

    def import_image(self, archive: Path) -> float:
        return self.containerd.import_image(archive)

    def set_node_labels(self, labels: dict[str, str]) -> None:
        assignments = [f"{name}={value}" for name, value in labels.items()]
        self.kubectl("label", "node", self.node_name, "--overwrite", *assignments)

    def node_labels(self) -> dict[str, str]:
        node = json.loads(self.kubectl("get", "node", self.node_name, "-o", "json").stdout)
        labels: dict[str, str] = node["metadata"]["labels"]
        return labels

    def _start_controllers(self) -> None:
        tokens = self.run / "pki" / "service-accounts.key"
        manager = self.plane.identity("controller-manager", "system:kube-controller-manager")
        scheduler = self.plane.identity("scheduler", "system:kube-scheduler")
        self.plane.processes.start(
            "kube-controller-manager", str(binary("kube-controller-manager")), f"--kubeconfig={manager}",
            f"--service-account-private-key-file={tokens}", f"--root-ca-file={self.plane.authority.certificate}",
            "--allocate-node-cidrs=true", f"--cluster-cidr={POD_RANGE}", "--node-cidr-mask-size=24",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--use-service-account-credentials=true", "--leader-elect=false", "--bind-address=127.0.0.1",
            "--secure-port=0",
        )  # fmt: skip
        self.plane.processes.start(
            "kube-scheduler", str(binary("kube-scheduler")), f"--kubeconfig={scheduler}",
            "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0",
        )  # fmt: skip
