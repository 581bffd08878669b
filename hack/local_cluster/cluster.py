"""The whole cluster: one node, and an identity for every component. A machine can run only one."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from local_cluster import leftovers, machine
from local_cluster.binaries import PROGRAMS, binary, build
from local_cluster.cache import cache_dir
from local_cluster.containerd import Containerd
from local_cluster.control_plane import KUBELET_CLIENT, ControlPlane
from local_cluster.network import AddressesTakenError, Network
from local_cluster.node import NODE_NAME, Node
from local_cluster.packages import ensure_packages
from local_cluster.packet_filter import kubernetes_rules
from local_cluster.processes import ProcessGroup
from waiting import NotReadyError, eventually

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
    """Starts, finds and stops the cluster in its run folder. Leftovers of a dead one are removed first."""

    def __init__(self, run: Path | None = None) -> None:
        self.run = run or cache_dir("run") / "cluster"
        holder = machine.holder()
        self.network = holder.network if holder and holder.run == str(self.run) else Network.chosen()
        self.plane = ControlPlane(
            self.run,
            address=self.network.gateway,
            port=int(self.network.api_port),
            services=self.network.services,
        )
        self.containerd = Containerd(self.run, self.plane.processes)
        self.node_name = NODE_NAME

    @property
    def url(self) -> str:
        return self.plane.url

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
        """All components run, and the API server answers."""
        return (
            not self.dead()
            and self.kubectl("get", "--raw=/readyz", "--request-timeout=2s", check=False).returncode == 0
        )

    def dead(self) -> list[str]:
        """Components that should run and do not."""
        return [program for program in COMPONENTS if not self.plane.processes.pids(program)]

    def up(self, *, kept: bool = True, starter: int | None = None) -> float:
        """Start the cluster. Returns the seconds of the boot alone, without builds.

        A kept cluster runs until `down`. Any other belongs to a process (`starter`, by default this one), and the next
        start after that process has ended takes it down first. A second `up` of the same kind finds it: the first
        worker of a test run starts the cluster, and the others use it.
        """
        ensure_packages()
        self._require_root()
        build(PROGRAMS)
        starter = starter or os.getpid()
        with machine.held():
            holder = machine.holder()
            if holder and holder.run == str(self.run) and holder.is_for(starter, kept=kept) and _in_use(holder):
                return 0.0
            self._take_over(holder)
            return self._boot(starter, kept=kept)

    def free(self) -> None:
        """Removes what a killed starter left behind. Raises OccupiedError if a cluster is still in use."""
        self._require_root()
        with machine.held():
            self._take_over(machine.holder())

    def down(self) -> None:
        """Stop and remove everything, including leftovers of a cluster that died or whose starter was killed."""
        self._require_root()
        with machine.held():
            holder = machine.holder()
            if holder and holder.run != str(self.run) and _in_use(holder):
                raise machine.OccupiedError(holder.describe())
            if holder is None and self.plane.processes.pids("kubelet"):
                # The record was lost. A kubelet with our mark still proves that bridge, rules and cgroup are ours.
                holder = machine.Holder.process(os.getpid(), self.run, self.network, kept=False)
            self._clean(holder)

    def leftovers(self) -> dict[str, list[str]]:
        """What remains of the cluster, by kind; empty lists after `down`."""
        return leftovers.list_leftovers(self.run, self.network)

    def import_image(self, archive: Path) -> float:
        return self.containerd.import_image(archive)

    def set_node_labels(self, labels: dict[str, str | None]) -> None:
        """Set labels of the node; None removes one."""
        assignments = [f"{name}-" if value is None else f"{name}={value}" for name, value in labels.items()]
        self.kubectl("label", "node", self.node_name, "--overwrite", *assignments)

    def set_gpus(self, count: int) -> None:
        """Sets the number of GPUs that the node offers; a cluster starts with two."""
        Node(self.plane, self.network).set_gpus(count)

    def node_labels(self) -> dict[str, str]:
        node = json.loads(self.kubectl("get", "node", self.node_name, "-o", "json").stdout)
        labels: dict[str, str] = node["metadata"]["labels"]
        return labels

    def _take_over(self, holder: machine.Holder | None) -> None:
        if holder and _in_use(holder):
            raise machine.OccupiedError(holder.describe())
        self._refuse_unrecorded(holder)
        self._clean(holder)

    def _refuse_unrecorded(self, holder: machine.Holder | None) -> None:
        """Processes without a record may belong to somebody, so they are never removed implicitly."""
        if holder is None and self.plane.processes.pids():
            raise machine.OccupiedError(
                f"processes of a cluster run in {self.run}, and there is no record of who started it: if nobody needs "
                "it, stop it: python -m local_cluster down"
            )
        if holder is None and kubernetes_rules():
            raise AddressesTakenError(
                "packet filter rules named KUBE- are there that no local cluster recorded: another Kubernetes seems "
                "to run on this machine. If it is gone, `kube-proxy --cleanup` removes them"
            )

    def _boot(self, starter: int, *, kept: bool) -> float:
        began = time.monotonic()
        self.network.refuse_strangers()
        machine.record(machine.Holder.process(starter, self.run, self.network, kept=kept))
        try:
            self._start_components()
        except BaseException:
            self._keep_logs()
            self._clean(machine.holder())
            raise
        machine.record_booted()
        return time.monotonic() - began

    def _start_components(self) -> None:
        self.network.make()
        self.plane.start()
        self._grant_kubelet_access()
        self._start_controllers()
        Node(self.plane, self.network).start()
        eventually(self._admits_pods, "the default service account", seconds=30)
        if self.dead():
            raise NotReadyError(f"ended while the cluster booted: {', '.join(self.dead())}")

    def _admits_pods(self) -> bool:
        """The controller manager creates it shortly after the namespace; pods are refused until then."""
        return self.kubectl("get", "serviceaccount", "default", check=False).returncode == 0

    def _grant_kubelet_access(self) -> None:
        """The API server fetches logs as a user that may do nothing else."""
        role = "system:kubelet-api-admin"
        self.kubectl(
            "create", "clusterrolebinding", KUBELET_CLIENT, f"--clusterrole={role}", f"--user={KUBELET_CLIENT}"
        )

    def _keep_logs(self) -> None:
        """Keeps the logs of a failed boot next to the run folder."""
        kept = self.run.with_name(f"{self.run.name}-failed-logs")
        shutil.rmtree(kept, ignore_errors=True)
        if self.plane.processes.logs.exists():
            shutil.copytree(self.plane.processes.logs, kept)

    def _clean(self, holder: machine.Holder | None) -> None:
        processes = self.plane.processes
        for program in ("kubelet", "kube-proxy"):
            processes.stop(program, patience=2)
        self.containerd.stop()
        if holder:
            # Pods and traces are recognised by files in the run folder, so this comes before its removal.
            other = ProcessGroup(Path(holder.run))
            other.stop(patience=1)
            leftovers.remove_from_machine(holder)
            leftovers.remove_own(other)
        leftovers.remove_own(processes)
        machine.forget()

    def _require_root(self) -> None:
        if os.geteuid() != 0:
            raise NotRootError(
                "the local cluster runs a kubelet, containers and a network bridge: run it as root, or use kind"
            )

    def _start_controllers(self) -> None:
        tokens = self.run / "pki" / "service-accounts.key"
        manager = self.plane.identity("controller-manager", "system:kube-controller-manager")
        scheduler = self.plane.identity("scheduler", "system:kube-scheduler")
        self.plane.processes.start(
            "kube-controller-manager", str(binary("kube-controller-manager")), f"--kubeconfig={manager}",
            f"--service-account-private-key-file={tokens}", f"--root-ca-file={self.plane.authority.certificate}",
            "--allocate-node-cidrs=true", f"--cluster-cidr={self.network.pods}",
            f"--node-cidr-mask-size={self.network.pods.rpartition('/')[2]}",
            f"--service-cluster-ip-range={self.network.services}",
            "--use-service-account-credentials=true", "--leader-elect=false", "--bind-address=127.0.0.1",
            # Instead of 15 s: tests wait for autoscalers.
            "--secure-port=0", "--horizontal-pod-autoscaler-sync-period=2s",
        )  # fmt: skip
        self.plane.processes.start(
            "kube-scheduler", str(binary("kube-scheduler")), f"--kubeconfig={scheduler}",
            "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0",
        )  # fmt: skip


def _in_use(holder: machine.Holder) -> bool:
    """Booted completely, in use, and alive. The caller holds the lock, so no boot is in progress."""
    return holder.booted and (holder.kept or holder.has_its_starter()) and LocalCluster(Path(holder.run)).running()
