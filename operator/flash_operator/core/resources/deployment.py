"""The engine pods.

One Deployment for one CR, whatever nodes it lands on: the template carries the safe flags, and the flags of the
node a pod is really bound to reach it as an annotation. So there is one scale target, autoscalers see a plain
two-GPU pod, and a new node needs no label before it can be used.
"""

import json

from flash_operator.api.names import ENGINE_FLAGS_ANNOTATION, LABEL_PREFIX
from flash_operator.api.v1alpha1 import FlashDeployment, InterconnectSpec
from flash_operator.core.engine_args import PORT, TENSOR_PARALLEL_SIZE, vllm_arguments
from flash_operator.core.flags import derive
from flash_operator.core.model_source import ModelSource
from flash_operator.core.observed import PlanSettings, RawObject
from flash_operator.core.pod_template import merge
from flash_operator.core.resources.gate_config import gate_config_name, startup_seconds
from flash_operator.core.resources.identity import labels, metadata, selector

GATE_PORT = 9400
HAND_OVER_SECONDS = 30
NODE_DIR = "/etc/flash/node"
GATE_DIR = "/etc/flash/gate"
RUN_DIR = "/run/flash"
CACHE_DIR = "/var/cache/flash"
NON_ROOT = 65532

INTERCONNECT_ANNOTATION = f"{LABEL_PREFIX}interconnect"
"""In the pod template, so that a changed `spec.interconnect` rolls the engines although flags are handed over late."""


def deployment(flash: FlashDeployment, settings: PlanSettings) -> RawObject:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(flash, flash.name),
        "spec": {
            "replicas": flash.spec.replicas,
            "selector": {"matchLabels": selector(flash)},
            # Surge needs two GPUs that nobody uses. On a full cluster a surging rollout waits for ever for
            # itself (defilantech/LLMKube#192), so one replica goes before the next one comes.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "progressDeadlineSeconds": startup_seconds(flash.spec) + 300,
            "revisionHistoryLimit": 3,
            "template": pod_template(flash, settings),
        },
    }


def pod_template(flash: FlashDeployment, settings: PlanSettings) -> RawObject:
    template = {
        "metadata": {
            "labels": labels(flash),
            "annotations": {INTERCONNECT_ANNOTATION: _interconnect_text(flash.spec.interconnect)},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": NON_ROOT,
                "runAsGroup": NON_ROOT,
                "fsGroup": NON_ROOT,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": flash.spec.rollout.drain_seconds,
            **(
                {"nodeSelector": dict(flash.spec.placement.node_selector)} if flash.spec.placement.node_selector else {}
            ),
            **({"tolerations": list(flash.spec.placement.tolerations)} if flash.spec.placement.tolerations else {}),
            "initContainers": [_gate_container(flash, settings)],
            "containers": [_engine_container(flash, settings)],
            "volumes": _volumes(flash),
        },
    }
    return merge(template, flash.spec.pod_template or {})


def _interconnect_text(interconnect: InterconnectSpec) -> str:
    return json.dumps(interconnect.model_dump(by_alias=True, mode="json"), sort_keys=True, separators=(",", ":"))


def _container(flash: FlashDeployment, settings: PlanSettings, name: str, command: str) -> RawObject:
    return {
        "name": name,
        "image": flash.spec.engine.image or settings.engine_image,
        "imagePullPolicy": flash.spec.engine.image_pull_policy,
        "command": [command],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # An engine that dies leaves its reason on the pod as well, for those who look there first.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _engine_container(flash: FlashDeployment, settings: PlanSettings) -> RawObject:
    source = ModelSource.parse(flash.spec.model.source)
    env = {variable.name: variable.value for variable in flash.spec.engine.extra_env}
    fallback = derive(None, flash.spec.interconnect, env)
    resources = dict(flash.spec.engine.resources or {})
    resources["limits"] = {**resources.get("limits", {}), "nvidia.com/gpu": str(TENSOR_PARALLEL_SIZE)}
    return {
        **_container(flash, settings, "engine", "flash-launch"),
        "args": vllm_arguments(flash.spec),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the pod's own emptyDir
            {"name": "FLASH_RUN_DIR", "value": RUN_DIR},
            {"name": "FLASH_NODE_DIR", "value": NODE_DIR},
            {"name": "FLASH_HAND_OVER_SECONDS", "value": str(HAND_OVER_SECONDS)},
            {"name": "FLASH_HANG_SECONDS", "value": str(flash.spec.interconnect.hang_seconds)},
            {"name": "FLASH_STOP_SECONDS", "value": str(_stop_seconds(flash))},
            {"name": "FLASH_FALLBACK_FLAGS", "value": fallback.to_annotation()},
            {"name": "XDG_CACHE_HOME", "value": CACHE_DIR},
            *source.environment,
            *[{"name": name, "value": value} for name, value in env.items()],
        ],
        "resources": resources,
        "volumeMounts": [
            {"name": "node", "mountPath": NODE_DIR, "readOnly": True},
            {"name": "run", "mountPath": RUN_DIR},
            {"name": "cache", "mountPath": CACHE_DIR},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
            *source.mounts,
        ],
    }


def _stop_seconds(flash: FlashDeployment) -> int:
    """The launcher ends the engine a moment before the kubelet would, so that its exit is written down."""
    return max(1, flash.spec.rollout.drain_seconds - 5)


def _gate_container(flash: FlashDeployment, settings: PlanSettings) -> RawObject:
    """A native sidecar: it starts before the engine, outlives its crashes, and its readiness is the pod's."""
    return {
        **_container(flash, settings, "gate", "flash-gate"),
        "restartPolicy": "Always",
        "ports": [{"name": "gate", "containerPort": GATE_PORT, "protocol": "TCP"}],
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108
            {"name": "FLASH_RUN_DIR", "value": RUN_DIR},
            {"name": "FLASH_GATE_CONFIG", "value": f"{GATE_DIR}/gate.json"},
            {"name": "FLASH_GATE_PORT", "value": str(GATE_PORT)},
            {"name": "FLASH_ENGINE_URL", "value": f"http://127.0.0.1:{PORT}"},
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "gate", "scheme": "HTTP"},
            "periodSeconds": 2,
            # The gate only repeats a latched verdict, but on a node whose cores are all busy that can take seconds.
            "timeoutSeconds": 10,
            "failureThreshold": 2,
            "successThreshold": 1,
        },
        "volumeMounts": [
            {"name": "gate", "mountPath": GATE_DIR, "readOnly": True},
            {"name": "run", "mountPath": RUN_DIR},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _volumes(flash: FlashDeployment) -> list[RawObject]:
    flags = {
        "path": "engine-flags",
        "fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{ENGINE_FLAGS_ANNOTATION}']"},
    }
    return [
        {"name": "node", "downwardAPI": {"items": [flags]}},
        {"name": "gate", "configMap": {"name": gate_config_name(flash)}},
        {"name": "run", "emptyDir": {}},
        {"name": "cache", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        # NCCL over shared memory and vLLM's message queues live here; 64 MiB is the runtime's default and too small.
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        *ModelSource.parse(flash.spec.model.source).volumes,
    ]
