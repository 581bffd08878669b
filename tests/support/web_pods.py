"""Pods of the web image, as tests of the cluster run them."""

import json
from typing import Any

from local_cluster.cluster import LocalCluster


def a_web_pod(name: str, *, gpus: int = 0, command: list[str] | None = None) -> dict[str, Any]:
    """A pod that passes the strictest Pod Security level, with a volume in memory as engines have one."""
    container: dict[str, Any] = {
        "name": "web",
        "image": "localhost/web:1",
        "imagePullPolicy": "Never",
        "resources": {"limits": {"nvidia.com/gpu": gpus}} if gpus else {},
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if command:
        container["command"] = command
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}]},
    }


def run_pod(cluster: LocalCluster, pod: dict[str, Any], namespace: str = "default") -> None:
    """Create a pod and wait until it is ready."""
    cluster.kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(pod))
    name = pod["metadata"]["name"]
    cluster.kubectl("wait", "-n", namespace, f"pod/{name}", "--for=condition=Ready", "--timeout=30s")
