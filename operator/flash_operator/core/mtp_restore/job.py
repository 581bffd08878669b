"""Builds the Job that restores the MTP head of a stripped checkpoint (images/quantiser, `mtp-quantise restore`).

It requests one GPU and has the engines' placement. The command is idempotent, so the Job may be recreated at any time.
A user error (exit code 1) fails it at once; anything else is retried.
"""

import hashlib
import json

from flash_contracts.names import FIELD_MANAGER, MANAGED_BY_LABEL, RESTORE_KEY_ANNOTATION, RESTORE_LABEL
from flash_operator.api.model_spec import RestoreMtpSpec
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import PlanSettings, RawObject
from flash_operator.core.resources.fetch_container import TOKEN_DIR, TOKEN_KEY, network_of, token_volumes
from flash_operator.core.resources.identity import metadata
from flash_operator.core.resources.model_source import MODEL_PATH, ClaimFolder, ModelSource
from flash_operator.core.resources.placement import placement_fields
from flash_operator.core.resources.pod_security import container_security, pod_security
from flash_operator.core.resources.strategic_merge import merge

RESULT_FILE = "/dev/termination-log"
TRIES = 3
USER_ERROR = 1
"""The command's exit code for errors that a retry cannot fix."""

PLACEMENT_FIELDS = (
    "affinity",
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "tolerations",
)
"""Fields of podTemplate that concern scheduling and volume access, not the engine."""


def restore_name(flash: FlashDeployment) -> str:
    """A Job's name is a label value of its pods; a deployment's 52 characters leave eleven."""
    return f"{flash.name}-restore"


def restore_job(flash: FlashDeployment, restore: RestoreMtpSpec, settings: PlanSettings) -> RawObject:
    labels = {
        "app.kubernetes.io/name": "deepseek-flash-restore",
        "app.kubernetes.io/instance": flash.name,
        MANAGED_BY_LABEL: FIELD_MANAGER,
        RESTORE_LABEL: flash.name,
    }
    own, pod = metadata(flash, restore_name(flash)), _pod(flash, restore, settings)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**own, "annotations": {RESTORE_KEY_ANNOTATION: _key_of(pod)}},
        "spec": {
            "backoffLimit": TRIES,
            "podFailurePolicy": {
                "rules": [
                    # A preempted or evicted pod is not a failed try.
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "restore", "operator": "In", "values": [USER_ERROR]},
                    },
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def key_of(job: RawObject) -> str | None:
    """The hash of a Job's spec. Jobs are immutable, so another key needs another Job."""
    key: str | None = (job["metadata"].get("annotations") or {}).get(RESTORE_KEY_ANNOTATION)
    return key


def _key_of(pod: RawObject) -> str:
    text = json.dumps(pod, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pod(flash: FlashDeployment, restore: RestoreMtpSpec, settings: PlanSettings) -> RawObject:
    claims = _ClaimMounts(flash.spec.model.source)
    container = _container(flash, restore, settings, claims)
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            **pod_security(),
            # Does not change the ownership of 149 GiB at every start.
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        **placement_fields(flash),
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *claims.volumes, *token_volumes(flash.spec)],
    }
    template = (flash.spec.pod_template or {}).get("spec") or {}
    return merge(pod, {name: template[name] for name in PLACEMENT_FIELDS if name in template})


class _ClaimMounts:
    """The claims of the pod, each mounted once: the model's read-write, others read-only."""

    def __init__(self, model: str) -> None:
        self._mounted: dict[str, str] = {}
        self.volumes: list[RawObject] = []
        self.mounts: list[RawObject] = []
        self._mount("model", model, MODEL_PATH, {})

    def path(self, uri: str, name: str) -> str:
        """The path of a pvc:// folder in the pod; other addresses are returned unchanged."""
        folder = ClaimFolder.parse(uri)
        if folder is None:
            return uri
        if folder.claim not in self._mounted:
            self._mount(name, uri, f"/{name}", {"readOnly": True})
        return f"{self._mounted[folder.claim]}/{folder.folder}"

    def _mount(self, name: str, uri: str, path: str, read_only: RawObject) -> None:
        folder = ClaimFolder.parse(uri)
        if folder:
            self._mounted[folder.claim] = path
            self.volumes.append({"name": name, "persistentVolumeClaim": {"claimName": folder.claim, **read_only}})
            self.mounts.append({"name": name, "mountPath": path, **read_only})


def _container(
    flash: FlashDeployment, restore: RestoreMtpSpec, settings: PlanSettings, claims: _ClaimMounts
) -> RawObject:
    model = flash.spec.model
    inputs = ["--base", claims.path(model.source, "model"), "--source", claims.path(restore.source, "source")]
    capture = ["--capture", claims.path(restore.capture, "capture")] if restore.capture else []
    return {
        "name": "restore",
        "image": restore.image or settings.quantiser_image,
        "command": ["mtp-quantise"],
        "args": [
            "restore",
            *inputs,
            *capture,
            "--out",
            claims.path(ModelSource(model).uri, "model"),
            f"--result={RESULT_FILE}",
        ],
        "env": [{"name": name, "value": value} for name, value in _environment(flash).items()],
        "terminationMessagePath": RESULT_FILE,
        # If it cannot start, its log is all there is.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {
            # The restored layer is in memory once: 3.6 GB.
            "requests": {"cpu": "1", "memory": "8Gi"},
            "limits": {"nvidia.com/gpu": "1"},
        },
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            *claims.mounts,
            *([{"name": "hub", "mountPath": TOKEN_DIR, "readOnly": True}] if model.credentials_secret else []),
        ],
    }


def _environment(flash: FlashDeployment) -> dict[str, str]:
    """Network settings, the same as for the engine's download."""
    model = flash.spec.model
    hub = {
        "HF_ENDPOINT": model.hub_endpoint,
        "HF_TOKEN_PATH": f"{TOKEN_DIR}/{TOKEN_KEY}" if model.credentials_secret else None,
    }
    given = {name: value for name, value in hub.items() if value is not None}
    return {"HOME": "/tmp"} | given | network_of(flash.spec)  # noqa: S108
