"""The node: containerd, kubelet and kube-proxy, each with its own identity."""

import json

from local_cluster import cgroups
from local_cluster.binaries import binary
from local_cluster.containerd import Containerd
from local_cluster.control_plane import ControlPlane
from local_cluster.network import Network
from waiting import eventually

NODE_NAME = "gpu-node-1"
GPUS = 2


class Node:
    """One node with two GPUs that exist in its capacity only."""

    def __init__(self, plane: ControlPlane, network: Network) -> None:
        self.plane = plane
        self.network = network
        self.run = plane.run
        self.processes = plane.processes
        self.containerd = Containerd(self.run, self.processes)

    def start(self) -> None:
        """Start all three, and give the node its GPUs once it is ready."""
        cgroups.make_cgroup()
        self.network.write_cni_config(self.run / "cni", self.run / "cni-state")
        self.containerd.start()
        self._start_kubelet()
        self._start_kube_proxy()
        eventually(
            self._is_ready,
            f"node {NODE_NAME} Ready",
            seconds=60,
            log=self.processes.logs / "kubelet.log",
            alive=lambda: self.processes.is_running("kubelet"),
        )
        self.set_gpus()

    def _start_kubelet(self) -> None:
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.plane.authority.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "address": self.network.gateway,
            "healthzPort": 0,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroups.NAME}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{self.run / 'containerd.sock'}",
            "resolvConf": "/etc/resolv.conf",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            # Images are in the cache, which outlives the cluster.
            "imageGCHighThresholdPercent": 100,
            "enforceNodeAllocatable": [],
            "syncFrequency": "10s",
            # Pods see a changed ConfigMap within seconds instead of a minute.
            "configMapAndSecretChangeDetectionStrategy": "Watch",
            "serializeImagePulls": False,
            # The defaults are outside the run folder.
            "podLogsDir": str(self.run / "pod-logs"),
            "volumePluginDir": str(self.run / "volume-plugins"),
        }
        path = self.run / "kubelet.yaml"
        path.write_text(json.dumps(config))
        identity = self.plane.identity("kubelet", f"system:node:{NODE_NAME}", groups=["system:nodes"])
        self.processes.start(
            "kubelet", str(binary("kubelet")), f"--kubeconfig={identity}", f"--config={path}",
            f"--hostname-override={NODE_NAME}", f"--node-ip={self.network.gateway}",
            f"--root-dir={self.run / 'kubelet'}", f"--cert-dir={self.run / 'kubelet-pki'}",
        )  # fmt: skip

    def _start_kube_proxy(self) -> None:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": self.network.pods,
            "hostnameOverride": NODE_NAME,
            "healthzBindAddress": f"{self.network.gateway}:10256",
            "metricsBindAddress": f"{self.network.gateway}:10249",
            "clientConnection": {"kubeconfig": str(self.plane.identity("kube-proxy", "system:kube-proxy"))},
            # Without this, answers between pods on one bridge bypass the address translation.
            "iptables": {"masqueradeAll": True},
            # Connection tracking sysctls belong to the machine.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        path = self.run / "kube-proxy.yaml"
        path.write_text(json.dumps(config))
        self.processes.start("kube-proxy", str(binary("kube-proxy")), f"--config={path}")

    def _is_ready(self) -> bool:
        ready = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        done = self.plane.kubectl("get", "node", NODE_NAME, ready, "--request-timeout=2s", check=False)
        return done.stdout == "True"

    def set_gpus(self, count: int = GPUS) -> None:
        """The kubelet keeps extended resources that no device plugin owns, because it patches only its own changes."""
        gpus = {"nvidia.com/gpu": str(count)}
        patch = json.dumps({"status": {"capacity": gpus, "allocatable": gpus}})
        self.plane.kubectl("patch", "node", NODE_NAME, "--subresource=status", "--type=merge", f"--patch={patch}")
