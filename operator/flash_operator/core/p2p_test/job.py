"""Builds the Job that tests the links of one node.

It requests both GPUs from the scheduler, so it never runs while they are in use. It has the lowest priority, so the
scheduler preempts it when an engine needs the GPUs. It uses the engine image, to test the NCCL and the kernels that the
engine will run.
"""

import hashlib
from dataclasses import dataclass

from flash_contracts.names import FIELD_MANAGER, MANAGED_BY_LABEL, P2P_TEST_LABEL
from flash_operator.core.observed.gpu_demand import owners_taints
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.engine_args import TENSOR_PARALLEL_SIZE
from flash_operator.core.resources.pod_security import container_security, pod_security

DEADLINE_SECONDS = 300
"""For the test itself, which ends its ranks by then and writes its report."""

STARTUP_SECONDS = 600
"""For the rest of the Job: pulling the engine image takes minutes."""

GIVE_UP_SECONDS = 5
REPORT_FILE = "/dev/termination-log"


@dataclass(frozen=True)
class P2pTestSettings:
    """How p2p tests run, set by the operator's administrator."""

    namespace: str
    image: str
    priority_class: str | None = None
    pull_secrets: tuple[str, ...] = ()
    """Secrets in `namespace`."""
    runtime_class: str | None = None


def p2p_test_name(node: str) -> str:
    """A hash, because node names may be longer than Job names and contain dots."""
    return f"flash-p2p-test-{hashlib.sha256(node.encode()).hexdigest()[:10]}"


def p2p_test_job(node: RawObject, settings: P2pTestSettings) -> RawObject:
    name = p2p_test_name(node["metadata"]["name"])
    labels = {
        "app.kubernetes.io/name": "deepseek-flash-p2p-test",
        MANAGED_BY_LABEL: FIELD_MANAGER,
        P2P_TEST_LABEL: name,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": settings.namespace, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": DEADLINE_SECONDS + STARTUP_SECONDS,
            # The operator deletes the Job after reading its report; this covers an operator that was removed.
            "ttlSecondsAfterFinished": 3600,
            "template": {"metadata": {"labels": labels}, "spec": _pod(node, settings)},
        },
    }


def _pod(node: RawObject, settings: P2pTestSettings) -> RawObject:
    name = node["metadata"]["name"]
    on_the_node = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GIVE_UP_SECONDS,
        **({"priorityClassName": settings.priority_class} if settings.priority_class else {}),
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [on_the_node]}}
        },
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}, *_tolerations_of(node)],
        **({"runtimeClassName": settings.runtime_class} if settings.runtime_class else {}),
        **({"imagePullSecrets": [{"name": name} for name in settings.pull_secrets]} if settings.pull_secrets else {}),
        "securityContext": pod_security(),
        "containers": [_container(settings)],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            # The variant without peer-to-peer transfers its data through here.
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
        ],
    }


def _tolerations_of(node: RawObject) -> list[RawObject]:
    """Tolerates the node's own taints, because the test is for exactly this node."""
    return [{"key": taint["key"], "operator": "Exists", "effect": taint["effect"]} for taint in owners_taints(node)]


def _container(settings: P2pTestSettings) -> RawObject:
    return {
        "name": "p2p-test",
        "image": settings.image,
        "command": ["flash-p2p-test"],
        "args": [f"--deadline-seconds={DEADLINE_SECONDS}", f"--report={REPORT_FILE}"],
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - the pod's own emptyDir
        "terminationMessagePath": REPORT_FILE,
        "resources": {
            "requests": {"cpu": "500m", "memory": "1Gi"},
            "limits": {"nvidia.com/gpu": str(TENSOR_PARALLEL_SIZE)},
        },
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }
