"""Builds the Deployment of the engine pods.

There is one Deployment per CR, whatever its nodes: the template has the safe flags, and a pod gets the flags of the
node it was bound to as an annotation. So there is one scale target, autoscalers see a plain two-GPU pod, and a new node
can be used without labels.
"""

import json

from flash_contracts.flags import derive
from flash_contracts.names import (
    ENGINE_FLAGS_ANNOTATION,
    FLOOR_ANNOTATION,
    LABEL_PREFIX,
    QUARANTINE_ANNOTATION,
)
from flash_operator.api.v1alpha1 import FlashDeployment, InterconnectSpec
from flash_operator.core.observed.snapshot import PlanSettings, RawObject
from flash_operator.core.resources.api_keys import api_key_mounts, api_key_settings, api_key_volumes
from flash_operator.core.resources.engine_args import PORT, vllm_arguments
from flash_operator.core.resources.engine_env import engine_env
from flash_operator.core.resources.engine_resources import engine_resources
from flash_operator.core.resources.fetch_container import credential_volumes, fetch_container
from flash_operator.core.resources.gate_config import (
    GATE_VOLUME,
    default_gate_config_name,
    startup_seconds,
    with_own_gate_config,
)
from flash_operator.core.resources.identity import labels, metadata, selector
from flash_operator.core.resources.model_source import RUN_DIR, ModelSource
from flash_operator.core.resources.placement import placement_fields
from flash_operator.core.resources.pod_security import container_security, pod_security
from flash_operator.core.resources.registry_access import pull_secrets
from flash_operator.core.resources.revision import with_revision
from flash_operator.core.resources.strategic_merge import merge

GATE_PORT = 9400
FLAGS_TIMEOUT_SECONDS = 30
JUDGE_SECONDS = 10

ONE_BY_ONE = {"maxSurge": 0, "maxUnavailable": 1}
SURGE = {"maxSurge": 1, "maxUnavailable": 0}

END_SECONDS = 30
"""For vLLM's own shutdown, after its requests have finished or the drain has timed out."""

FETCH_SECONDS = 24 * 3600

NODE_DIR = "/etc/flash/node"
GATE_DIR = "/etc/flash/gate"
CACHE_DIR = "/var/cache/flash"

ANNOTATION_FILES = {
    "engine-flags": ENGINE_FLAGS_ANNOTATION,
    "floor": FLOOR_ANNOTATION,
    "quarantine": QUARANTINE_ANNOTATION,
}
"""Files of the downwardAPI volume, and the pod annotations that they show."""

FALLBACK_FLAGS = "FLASH_FALLBACK_FLAGS"

ENGINE_URL = f"http://127.0.0.1:{PORT}"

SUCCESSOR_ANNOTATION = f"{LABEL_PREFIX}successor-beside"
"""On the Deployment: how many replicas the spec asked for when an update of flags started one more."""

INTERCONNECT_ANNOTATION = f"{LABEL_PREFIX}interconnect"
"""In the pod template, so that changing `spec.interconnect` rolls the engines; their flags are not in the template."""


def deployment(
    flash: FlashDeployment, template: RawObject, *, surge: bool = False, has_successor: bool = False
) -> RawObject:
    """`template` is the current one, which may be older than the spec's (`core.rollout`).

    `surge`: start the next replica before stopping one (`core.rollout.surge`). `has_successor`: one replica more than
    the spec asks for, which an update of flags has started.
    """
    named = metadata(flash, flash.name)
    if has_successor:
        named["annotations"] = {SUCCESSOR_ANNOTATION: str(flash.spec.replicas)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": named,
        "spec": {
            "replicas": flash.spec.replicas + has_successor,
            "selector": {"matchLabels": selector(flash)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": SURGE if surge else ONE_BY_ONE},
            # Time to compare the new replica's speed before the next one is replaced.
            "minReadySeconds": JUDGE_SECONDS,
            # The server drops a false value, which would look like drift.
            **({"paused": True} if flash.spec.rollout.state == "Paused" else {}),
            "progressDeadlineSeconds": startup_seconds(flash.spec) + 300 + _download_seconds(flash),
            "revisionHistoryLimit": 3,
            "template": template,
        },
    }


def _download_seconds(flash: FlashDeployment) -> int:
    """A download has no deadline as long as it makes progress, but the Deployment needs one."""
    return FETCH_SECONDS if ModelSource(flash.spec.model).is_fetched else 0


def pod_template(flash: FlashDeployment, settings: PlanSettings) -> RawObject:
    users = flash.spec.pod_metadata
    template = {
        "metadata": {
            "labels": {**users.labels, **labels(flash)},
            "annotations": {
                **users.annotations,
                INTERCONNECT_ANNOTATION: _interconnect_text(flash.spec.interconnect),
            },
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": pod_security(),
            "terminationGracePeriodSeconds": flash.spec.drain.timeout_seconds + END_SECONDS,
            **placement_fields(flash),
            **_topology_spread(flash),
            **_pull_secrets(flash),
            "initContainers": [_gate_container(flash, settings), *_fetch_containers(flash, settings)],
            "containers": [_engine_container(flash, settings)],
            "volumes": _volumes(flash),
        },
    }
    return with_revision(with_own_gate_config(flash, merge(template, flash.spec.pod_template or {})))


def _topology_spread(flash: FlashDeployment) -> RawObject:
    """Counts the replicas of this deployment, those of an older template too: a replica that replaces another one goes
    where that has left room."""
    spread = [
        {
            "topologyKey": one.topology_key,
            "maxSkew": one.max_skew,
            "whenUnsatisfiable": one.when_unsatisfiable,
            "labelSelector": {"matchLabels": selector(flash)},
        }
        for one in flash.spec.placement.topology_spread
    ]
    return {"topologySpreadConstraints": spread} if spread else {}


def _pull_secrets(flash: FlashDeployment) -> RawObject:
    """The kubelet pulls an image volume with the pod's pull secrets."""
    secrets = pull_secrets(flash.spec) if ModelSource(flash.spec.model).is_mounted_image else []
    return {"imagePullSecrets": secrets} if secrets else {}


def _interconnect_text(interconnect: InterconnectSpec) -> str:
    """Only values that differ from the defaults: a new field in a newer operator must not restart every engine."""
    changed = interconnect.model_dump(by_alias=True, mode="json", exclude_defaults=True)
    return json.dumps(changed, sort_keys=True, separators=(",", ":"))


def _container(flash: FlashDeployment, settings: PlanSettings, name: str, command: str) -> RawObject:
    return {
        "name": name,
        "image": flash.spec.engine.image or settings.engine_image,
        "imagePullPolicy": flash.spec.engine.image_pull_policy,
        "command": [command],
        "securityContext": container_security(),
        # Shows the end of a crashed engine's log in the pod's status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _fetch_containers(flash: FlashDeployment, settings: PlanSettings) -> list[RawObject]:
    if not ModelSource(flash.spec.model).is_fetched:
        return []
    return [fetch_container(_container(flash, settings, "fetch", "flash-fetch"), flash.spec)]


def _engine_container(flash: FlashDeployment, settings: PlanSettings) -> RawObject:
    source = ModelSource(flash.spec.model)
    env = {variable.name: variable.value for variable in flash.spec.engine.extra_env}
    fallback = derive(None, flash.spec.interconnect, engine_env(flash.spec))
    return {
        **_container(flash, settings, "engine", "flash-launch"),
        "args": vllm_arguments(flash.spec),
        "securityContext": container_security(added=_capabilities(flash.spec.interconnect)),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the pod's own emptyDir
            {"name": "FLASH_RUN_DIR", "value": RUN_DIR},
            {"name": "FLASH_NODE_DIR", "value": NODE_DIR},
            {"name": "FLASH_HAND_OVER_SECONDS", "value": str(FLAGS_TIMEOUT_SECONDS)},
            {"name": "FLASH_HANG_SECONDS", "value": str(flash.spec.interconnect.hang_seconds)},
            {"name": "FLASH_STOP_SECONDS", "value": str(END_SECONDS - 5)},
            {"name": "FLASH_DRAIN_SECONDS", "value": str(flash.spec.drain.timeout_seconds)},
            {"name": "FLASH_ENGINE_URL", "value": ENGINE_URL},
            # A Custom engine may serve any model.
            {"name": "FLASH_MODEL_CHECK", "value": "files" if flash.spec.engine.profile == "Custom" else "strict"},
            {"name": FALLBACK_FLAGS, "value": fallback.to_text()},
            {"name": "XDG_CACHE_HOME", "value": CACHE_DIR},
            *api_key_settings(flash.spec.engine),
            *source.environment,
            *[{"name": name, "value": value} for name, value in env.items()],
        ],
        "resources": engine_resources(flash.spec),
        # Before SIGTERM: the gate turns not ready, and requests in flight finish.
        "lifecycle": {"preStop": {"exec": {"command": ["flash-drain"]}}},
        # The gate knows whether the engine makes progress; latency does not, so a busy engine is not restarted.
        # By number, because a named port must belong to this container.
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": GATE_PORT, "scheme": "HTTP"},
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            # A restart of the gate must not cause a restart of the engine, which loads 149 GiB.
            "failureThreshold": 6,
            "successThreshold": 1,
        },
        "volumeMounts": [
            {"name": "node", "mountPath": NODE_DIR, "readOnly": True},
            {"name": "run", "mountPath": RUN_DIR},
            {"name": "cache", "mountPath": CACHE_DIR},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
            source.mount,
            *api_key_mounts(flash.spec.engine),
        ],
    }


def _capabilities(interconnect: InterconnectSpec) -> tuple[str, ...]:
    """The runtime's seccomp profile requires this capability to set a memory policy; the kernel does not."""
    return ("SYS_NICE",) if interconnect.numa_binding == "CpusAndMemory" else ()


def _gate_container(flash: FlashDeployment, settings: PlanSettings) -> RawObject:
    """A native sidecar: it starts before the engine, survives its crashes, and decides the pod's readiness."""
    return {
        **_container(flash, settings, "gate", "flash-gate"),
        "restartPolicy": "Always",
        "ports": [{"name": "gate", "containerPort": GATE_PORT, "protocol": "TCP"}],
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108
            {"name": "FLASH_RUN_DIR", "value": RUN_DIR},
            {"name": "FLASH_GATE_CONFIG", "value": f"{GATE_DIR}/gate.json"},
            {"name": "FLASH_GATE_PORT", "value": str(GATE_PORT)},
            {"name": "FLASH_NODE_DIR", "value": NODE_DIR},
            {"name": "FLASH_ENGINE_URL", "value": ENGINE_URL},
            *api_key_settings(flash.spec.engine),
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "gate", "scheme": "HTTP"},
            "periodSeconds": 2,
            # The gate only repeats its verdict, but that can take seconds on a node with busy CPUs.
            "timeoutSeconds": 10,
            "failureThreshold": 2,
            "successThreshold": 1,
        },
        "volumeMounts": [
            {"name": "node", "mountPath": NODE_DIR, "readOnly": True},
            {"name": "gate", "mountPath": GATE_DIR, "readOnly": True},
            {"name": "run", "mountPath": RUN_DIR},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            *api_key_mounts(flash.spec.engine),
        ],
    }


def _volumes(flash: FlashDeployment) -> list[RawObject]:
    annotation_files = [
        {"path": path, "fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{annotation}']"}}
        for path, annotation in ANNOTATION_FILES.items()
    ]
    return [
        {"name": "node", "downwardAPI": {"items": annotation_files}},
        {"name": GATE_VOLUME, "configMap": {"name": default_gate_config_name(flash)}},
        {"name": "run", "emptyDir": {}},
        {"name": "cache", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        # For NCCL over shared memory and vLLM's message queues; the runtime's default of 64 MiB is too small.
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        ModelSource(flash.spec.model).volume,
        *api_key_volumes(flash.spec.engine),
        *(credential_volumes(flash.spec) if ModelSource(flash.spec.model).is_fetched else []),
    ]
