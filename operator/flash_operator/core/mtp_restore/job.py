"""The Job that gives a stripped checkpoint its MTP head back (images/quantiser, `mtp-quantise restore`).

It asks for one GPU and for the places that the engines may have. The command does its work once for a folder, so the
Job may be made again at any time; a user's mistake (exit code 1) ends it at once, anything else is tried again.
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
from flash_operator.core.resources.pod_security import container_security, pod_security
from flash_operator.core.resources.strategic_merge import merge

RESULT_FILE = "/dev/termination-log"
TRIES = 3
USERS_MISTAKE = 1
"""Exit code of the command where only a person can help."""

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
"""Of podTemplate: what lets a pod run on these nodes and write on this claim, and says nothing about the engine."""


def restore_name(flash: FlashDeployment) -> str:
    """A Job's name is a label of its pods: with 52 characters of a deployment's there are eleven left."""
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
                    # A pod that was pushed out by another, or whose node was drained, is no failed try.
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "restore", "operator": "In", "values": [USERS_MISTAKE]},
                    },
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def key_of(job: RawObject) -> str | None:
    """What a Job was asked for. One of another key is another Job, for the API server lets none be changed."""
    key: str | None = (job["metadata"].get("annotations") or {}).get(RESTORE_KEY_ANNOTATION)
    return key


def _key_of(pod: RawObject) -> str:
    text = json.dumps(pod, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pod(flash: FlashDeployment, restore: RestoreMtpSpec, settings: PlanSettings) -> RawObject:
    places = _Places(flash.spec.model.source)
    container = _container(flash, restore, settings, places)
    placement = flash.spec.placement
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            **pod_security(),
            # A claim of 149 GiB is not walked through for its owners each time.
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        **({"nodeSelector": dict(placement.node_selector)} if placement.node_selector else {}),
        **({"tolerations": list(placement.tolerations)} if placement.tolerations else {}),
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *places.volumes, *token_volumes(flash.spec)],
    }
    theirs = (flash.spec.pod_template or {}).get("spec") or {}
    return merge(pod, {name: theirs[name] for name in PLACEMENT_FIELDS if name in theirs})


class _Places:
    """Claims of a pod, each mounted once: the model's own for writing, others for reading."""

    def __init__(self, model: str) -> None:
        self._mounted: dict[str, str] = {}
        self.volumes: list[RawObject] = []
        self.mounts: list[RawObject] = []
        self._mount("model", model, MODEL_PATH, {})

    def path(self, uri: str, name: str) -> str:
        """Where the pod finds a pvc:// folder; a hub's address stays what it is."""
        place = ClaimFolder.parse(uri)
        if place is None:
            return uri
        if place.claim not in self._mounted:
            self._mount(name, uri, f"/{name}", {"readOnly": True})
        return f"{self._mounted[place.claim]}/{place.folder}"

    def _mount(self, name: str, uri: str, path: str, read_only: RawObject) -> None:
        place = ClaimFolder.parse(uri)
        if place:
            self._mounted[place.claim] = path
            self.volumes.append({"name": name, "persistentVolumeClaim": {"claimName": place.claim, **read_only}})
            self.mounts.append({"name": name, "mountPath": path, **read_only})


def _container(flash: FlashDeployment, restore: RestoreMtpSpec, settings: PlanSettings, places: _Places) -> RawObject:
    model = flash.spec.model
    given = ["--base", places.path(model.source, "model"), "--source", places.path(restore.source, "source")]
    capture = ["--capture", places.path(restore.capture, "capture")] if restore.capture else []
    return {
        "name": "restore",
        "image": restore.image or settings.quantiser_image,
        "command": ["mtp-quantise"],
        "args": [
            "restore",
            *given,
            *capture,
            "--out",
            places.path(ModelSource(model).uri, "model"),
            f"--result={RESULT_FILE}",
        ],
        "env": [{"name": name, "value": value} for name, value in _environment(flash).items()],
        "terminationMessagePath": RESULT_FILE,
        # Where it cannot even start, its log is all there is.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {
            # The restored layer is held in memory once, 3.6 GB.
            "requests": {"cpu": "1", "memory": "8Gi"},
            "limits": {"nvidia.com/gpu": "1"},
        },
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            *places.mounts,
            *([{"name": "hub", "mountPath": TOKEN_DIR, "readOnly": True}] if model.credentials_secret else []),
        ],
    }


def _environment(flash: FlashDeployment) -> dict[str, str]:
    """How a hub is reached is the engine's affair and the Job's alike."""
    model = flash.spec.model
    hub = {
        "HF_ENDPOINT": model.hub_endpoint,
        "HF_TOKEN_PATH": f"{TOKEN_DIR}/{TOKEN_KEY}" if model.credentials_secret else None,
    }
    given = {name: value for name, value in hub.items() if value is not None}
    return {"HOME": "/tmp"} | given | network_of(flash.spec)  # noqa: S108
