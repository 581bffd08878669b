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
from local_cluster.network import GATEWAY, POD_RANGE, kube_proxy_rules, make_bridge, remove_bridge, veths
from local_cluster.node import NODE_NAME, Node, clean_packet_filter
from local_cluster.packages import ensure_packages

API_PORT = 6443


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

    def kubectl(
        self, *args: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return self.plane.kubectl(*args, stdin=stdin, check=check)

    def running(self) -> bool:
        """All components of the control plane and of the node are there, and the API server answers."""
        programs = ("etcd", "kube-apiserver", "kubelet", "containerd")
        alive = all(self.plane.processes.pids(program) for program in programs)
        return alive and self.kubectl("get", "--raw=/readyz", "--request-timeout=2s", check=False).returncode == 0

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
        return time.monotonic() - began

    def down(self) -> None:
        """Stop everything and leave nothing: also what a cluster left that died, or whose starter was killed."""
        processes = self.plane.processes
        for program in ("kubelet", "kube-proxy"):
            processes.stop(program, patience=2)
        self.containerd.stop()
        cgroups.remove_cgroup()
        processes.stop(patience=1)
        unmount_all(self.run)
        if kube_proxy_rules():
            clean_packet_filter(self.run / "logs" / "cleanup.log")
        remove_bridge()
        shutil.rmtree(self.run, ignore_errors=True)

    def leftovers(self) -> dict[str, list[str]]:
        """What is still there of the cluster, by kind; empty lists after `down`."""
        return {
            "processes": [str(pid) for pid in self.plane.processes.pids()],
            "pod processes": [str(pid) for pid in cgroups.members()],
            "mounts": mounts_under(self.run),
            "links": veths(),
            "packet filter": kube_proxy_rules(),
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
