"""A real Karpenter in the local cluster, whose nodes kwok plays: they exist in the API, and nothing runs on them.

A pod on such a node is Running at once and never Ready: a replica that loads.
"""

import ipaddress
import json
from dataclasses import dataclass
from typing import Any

from e2e_env import apply, get_json, wait_until
from local_cluster.binaries import KARPENTER_MODULE
from local_cluster.cluster import LocalCluster
from program_images import import_program

NAMESPACE = "karpenter"
POOL = "gpu"
FAKE_NODES = "kwok.x-k8s.io/node=fake"
"""The annotation of the nodes that Karpenter's kwok provider makes."""

GPU_TAINT = {"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}

Document = dict[str, Any]


def instance_type(name: str, cpus: int, gpus: int, price: float) -> Document:
    """One that Karpenter may choose."""
    requirements = {"karpenter.sh/capacity-type": "on-demand", "topology.kubernetes.io/zone": "zone-a"}
    resources = {"cpu": str(cpus), "memory": f"{cpus * 8}Gi", "ephemeral-storage": "1000Gi", "pods": "110"}
    return {
        "name": name,
        "architecture": "amd64",
        "operatingSystems": ["linux"],
        "offerings": [
            {
                "Price": price,
                "Available": True,
                "Requirements": [{"key": k, "operator": "In", "values": [v]} for k, v in requirements.items()],
            }
        ],
        "resources": {**resources, **({"nvidia.com/gpu": str(gpus)} if gpus else {})},
    }


TWO_GPUS, FOUR_GPUS = "gpu2-16x", "gpu4-32x"
INSTANCE_TYPES = [
    instance_type("cpu-4x", 4, 0, 0.2),
    instance_type(TWO_GPUS, 16, 2, 4.0),
    # Cheaper than two of the former, and dearer than one.
    instance_type(FOUR_GPUS, 32, 4, 7.0),
]


@dataclass
class Karpenter:
    """Not there until `start`."""

    cluster: LocalCluster

    def start(self) -> None:
        import_program(self.cluster, "localhost/karpenter:1", "karpenter")
        import_program(self.cluster, "localhost/kwok:1", "kwok")
        for folder in ("crds", "kwok-crds"):
            self.cluster.kubectl("apply", "--server-side", "-f", str(KARPENTER_MODULE.folder / folder))
        apply(self.cluster, *_account(), _settings())
        apply(self.cluster, _kwok(self.cluster.network.services), _karpenter())
        for name in ("kwok", "karpenter"):
            self.cluster.kubectl("rollout", "status", f"deployment/{name}", "-n", NAMESPACE, "--timeout=120s")
        apply(self.cluster, *_pool())
        self.cluster.kubectl("wait", "--for=condition=Ready", f"nodepool/{POOL}", "--timeout=60s")

    def remove(self) -> None:
        """Its nodes first: they have finalizers that only a running Karpenter removes."""
        self.cluster.kubectl("delete", "nodepools", "--all", "--ignore-not-found", "--timeout=120s")
        wait_until(lambda: not self.nodes(), "no node of Karpenter is left", seconds=120)
        self.cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
        self.cluster.kubectl("delete", "clusterrolebinding", NAMESPACE, "--ignore-not-found")
        for folder in ("crds", "kwok-crds"):
            self.cluster.kubectl("delete", "--ignore-not-found", "-f", str(KARPENTER_MODULE.folder / folder))

    def nodes(self) -> dict[str, str]:
        """Its nodes by name, with their instance types."""
        items = get_json(self.cluster, "nodes", "-l", f"karpenter.sh/nodepool={POOL}")["items"]
        label = "node.kubernetes.io/instance-type"
        return {node["metadata"]["name"]: node["metadata"]["labels"][label] for node in items}

    def story(self) -> str:
        """The end of its log, for the report of a test that failed."""
        done = self.cluster.kubectl("logs", "deployment/karpenter", "-n", NAMESPACE, "--tail=40", check=False)
        return done.stdout + done.stderr


def _account() -> list[Document]:
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NAMESPACE},
            "roleRef": role,
            "subjects": [subject],
        },
    ]


def _settings() -> Document:
    stages = "\n---\n".join(json.dumps(stage) for stage in (NODE_READY, POD_RUNNING, POD_DELETED))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": NAMESPACE},
        "data": {"instance-types.json": json.dumps(INSTANCE_TYPES), "stages.yaml": stages},
    }


def _karpenter() -> Document:
    arguments = [
        "--instance-types-file-path=/settings/instance-types.json",
        "--disable-leader-election=true",
        "--batch-idle-duration=1s",
        "--batch-max-duration=2s",
    ]
    return _deployment("karpenter", arguments, {"path": "/readyz", "port": 8081})


def _kwok(services: str) -> Document:
    """Addresses of its pods are in the range of Services, where nothing of this machine or another one answers."""
    addresses = list(ipaddress.ip_network(services).subnets(new_prefix=24))[-1]
    arguments = [
        "--config=/settings/stages.yaml",
        "--enable-crds=",
        "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={FAKE_NODES}",
        f"--cidr={addresses}",
        "--node-ip=$(POD_IP)",
        "--node-lease-duration-seconds=40",
        "--server-address=:10247",
    ]
    return _deployment("kwok", arguments, {"path": "/healthz", "port": 10247})


def _deployment(name: str, arguments: list[str], probe: Document) -> Document:
    container = {
        "name": name,
        "image": f"localhost/{name}:1",
        "imagePullPolicy": "Never",
        "args": arguments,
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "SYSTEM_NAMESPACE", "value": NAMESPACE},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "readinessProbe": {"httpGet": probe, "periodSeconds": 1},
        "volumeMounts": [{"name": "settings", "mountPath": "/settings"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    volumes = [{"name": "settings", "configMap": {"name": "settings"}}, {"name": "tmp", "emptyDir": {}}]
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container], "volumes": volumes}},
        },
    }


def _pool() -> list[Document]:
    """Nodes with GPUs that come after a second and go once they are not worth their price."""
    labels = {"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "karpenter.sh/capacity-type": "on-demand"}
    node_class = {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": POOL}
    template = {
        "nodeClassRef": node_class,
        "requirements": [{"key": k, "operator": "In", "values": [v]} for k, v in labels.items()],
        "taints": [GPU_TAINT],
        "expireAfter": "Never",
    }
    disruption = {
        "consolidationPolicy": "WhenEmptyOrUnderutilized",
        "consolidateAfter": "0s",
        "budgets": [{"nodes": "100%"}],
    }
    return [
        {
            "apiVersion": "karpenter.kwok.sh/v1alpha1",
            "kind": "KWOKNodeClass",
            "metadata": {"name": POOL},
            "spec": {"nodeRegistrationDelay": "1s"},
        },
        {
            "apiVersion": "karpenter.sh/v1",
            "kind": "NodePool",
            "metadata": {"name": POOL},
            "spec": {"template": {"spec": template}, "limits": {"nvidia.com/gpu": "8"}, "disruption": disruption},
        },
    ]


def _stage(name: str, kind: str, conditions: list[Document], following: Document) -> Document:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": conditions},
            "next": following,
        },
    }


_IS_READY = '.status.conditions.[] | select( .type == "Ready" ) | .status'

NODE_READY = _stage(
    "node-ready",
    "Node",
    [{"key": _IS_READY, "operator": "NotIn", "values": ["True"]}],
    {
        "statusTemplate": """
conditions:
{{ range NodeConditions }}
- lastHeartbeatTime: {{ Now | Quote }}
  lastTransitionTime: {{ Now | Quote }}
  message: {{ .message | Quote }}
  reason: {{ .reason | Quote }}
  status: {{ .status | Quote }}
  type: {{ .type | Quote }}
{{ end }}
addresses:
- {address: {{ NodeIP | Quote }}, type: InternalIP}
- {address: {{ NodeName | Quote }}, type: Hostname}
phase: Running
"""
    },
)
POD_RUNNING = _stage(
    "pod-running",
    "Pod",
    [
        {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"},
        {"key": ".status.phase", "operator": "In", "values": ["Pending"]},
    ],
    {
        "statusTemplate": """
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ Now | Quote }}}
- {type: Ready, status: "False", lastTransitionTime: {{ Now | Quote }}}
- {type: ContainersReady, status: "False", lastTransitionTime: {{ Now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- image: {{ .image | Quote }}
  name: {{ .name | Quote }}
  ready: false
  restartCount: 0
  state: {running: {startedAt: {{ Now | Quote }}}}
{{ end }}
{{ $addresses := PodIPsWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace }}
podIP: {{ index $addresses 0 | Quote }}
podIPs: [{ip: {{ index $addresses 0 | Quote }}}]
phase: Running
startTime: {{ Now | Quote }}
"""
    },
)
POD_DELETED = _stage(
    "pod-deleted", "Pod", [{"key": ".metadata.deletionTimestamp", "operator": "Exists"}], {"delete": True}
)
