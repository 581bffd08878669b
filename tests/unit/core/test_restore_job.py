"""The complete Job that restores an MTP head: what it runs, where, and what it may write."""

from typing import Any

from builders import SETTINGS, a_flash, a_node, a_pod, an_observed
from flash_operator.core.mtp_restore.job import key_of, restore_job
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.replicas.baseline import baseline_key
from flash_operator.core.replicas.replica import replicas_of
from flash_operator.core.resources.deployment import pod_template
from flash_operator.core.resources.model_source import ModelSource

OFFICIAL = "hf://deepseek-ai/DeepSeek-V4-Flash@0123abc"
OUT = "/models/v4-with-mtp-97debff6"


def job(source: str = OFFICIAL, model: str = "pvc://models/v4", **spec: Any) -> RawObject:
    restore = {"source": source, **spec.pop("restore", {})}
    flash = a_flash(model={"source": model, "restoreMtp": restore}, **spec)
    assert flash.spec.model.restore_mtp
    return restore_job(flash, flash.spec.model.restore_mtp, SETTINGS)


def pod(made: RawObject) -> RawObject:
    return dict(made["spec"]["template"]["spec"])


def arguments(made: RawObject) -> list[str]:
    (container,) = pod(made)["containers"]
    return list(container["args"])


def test_the_whole_job() -> None:
    labels = {
        "app.kubernetes.io/name": "deepseek-flash-restore",
        "app.kubernetes.io/instance": "flash",
        "app.kubernetes.io/managed-by": "flash-operator",
        "deepseekflash.dev/restore-of": "flash",
    }
    made = job()
    key = made["metadata"]["annotations"]["deepseekflash.dev/restore-key"]
    assert made == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "flash-restore",
            "namespace": "team",
            "labels": {
                "app.kubernetes.io/name": "deepseek-flash",
                "app.kubernetes.io/instance": "flash",
                "app.kubernetes.io/managed-by": "flash-operator",
                "deepseekflash.dev/deployment": "flash",
            },
            "annotations": {"deepseekflash.dev/restore-key": key},
            "ownerReferences": [
                {
                    "apiVersion": "inference.deepseekflash.dev/v1alpha1",
                    "kind": "DeepSeekFlashDeployment",
                    "name": "flash",
                    "uid": "uid-of-flash",
                    "controller": True,
                }
            ],
        },
        "spec": {
            "backoffLimit": 3,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "restore", "operator": "In", "values": [1]},
                    },
                ]
            },
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 65532,
                        "runAsGroup": 65532,
                        "fsGroup": 65532,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {
                            "name": "restore",
                            "image": "registry.example/flash/quantiser:1",
                            "command": ["mtp-quantise"],
                            "args": [
                                "restore",
                                "--base",
                                "/models/v4",
                                "--source",
                                OFFICIAL,
                                "--out",
                                OUT,
                                "--result=/dev/termination-log",
                            ],
                            "env": [{"name": "HOME", "value": "/tmp"}],
                            "terminationMessagePath": "/dev/termination-log",
                            "terminationMessagePolicy": "FallbackToLogsOnError",
                            "resources": {
                                "requests": {"cpu": "1", "memory": "8Gi"},
                                "limits": {"nvidia.com/gpu": "1"},
                            },
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "readOnlyRootFilesystem": True,
                                "capabilities": {"drop": ["ALL"]},
                            },
                            "volumeMounts": [
                                {"name": "tmp", "mountPath": "/tmp"},
                                {"name": "model", "mountPath": "/models"},
                            ],
                        }
                    ],
                    "volumes": [
                        {"name": "tmp", "emptyDir": {}},
                        {"name": "model", "persistentVolumeClaim": {"claimName": "models"}},
                    ],
                },
            },
        },
    }


def test_another_claim_is_mounted_for_reading_and_the_models_own_only_once() -> None:
    made = job("pvc://models/official", restore={"capture": "pvc://captures/ultrachat/1"})
    assert arguments(made)[1:7] == [
        "--base", "/models/v4", "--source", "/models/official", "--capture", "/capture/ultrachat/1",
    ]  # fmt: skip
    assert pod(made)["volumes"][1:] == [
        {"name": "model", "persistentVolumeClaim": {"claimName": "models"}},
        {"name": "capture", "persistentVolumeClaim": {"claimName": "captures", "readOnly": True}},
    ]
    (container,) = pod(made)["containers"]
    assert container["volumeMounts"][-1] == {"name": "capture", "mountPath": "/capture", "readOnly": True}


def test_the_engine_loads_what_the_job_makes_and_mounts_it_for_reading() -> None:
    flash = a_flash(model={"source": "pvc://models/v4", "restoreMtp": {"source": OFFICIAL}})
    engine = pod_template(flash, SETTINGS)["spec"]["containers"][0]
    assert engine["args"][:2] == ["serve", OUT]
    mounts = {mount["name"]: mount for mount in engine["volumeMounts"]}
    assert mounts["model"] == {"name": "model", "mountPath": "/models", "readOnly": True}


def test_switched_off_the_engine_loads_the_source() -> None:
    flash = a_flash(model={"source": "pvc://models/v4", "restoreMtp": {"source": OFFICIAL, "state": "Disabled"}})
    assert pod_template(flash, SETTINGS) == pod_template(a_flash(), SETTINGS)


def test_the_folder_follows_from_source_and_capture_alone() -> None:
    """Two deployments with the same inputs share a folder; other inputs must not overwrite it."""

    def folder(**restore: Any) -> str:
        flash = a_flash(model={"source": "pvc://models/v4", "restoreMtp": {"source": OFFICIAL, **restore}})
        return ModelSource(flash.spec.model).uri

    assert folder() == folder(image="another:2") == "pvc://models/v4-with-mtp-97debff6"
    assert len({folder(), folder(capture="pvc://a/b"), folder(capture="pvc://a/c"), folder(source="hf://a/b")}) == 4


def test_a_changed_image_is_another_job_of_the_same_folder() -> None:
    first, second = job(), job(restore={"image": "another:2"})
    assert arguments(first) == arguments(second)
    assert key_of(first) != key_of(second)
    assert pod(second)["containers"][0]["image"] == "another:2"


def test_a_changed_place_is_another_job_too() -> None:
    """A Job cannot be changed, so one that waits for a missing node would wait forever."""
    assert key_of(job()) != key_of(job(placement={"nodeSelector": {"pool": "gpu"}}))
    assert key_of(job()) == key_of(job(readiness={"samples": 1}))


def test_the_job_has_the_engines_placement() -> None:
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    theirs = {
        "runtimeClassName": "nvidia",
        "imagePullSecrets": [{"name": "registry"}],
        "securityContext": {"supplementalGroups": [5000]},
        "hostNetwork": True,
        "containers": [{"name": "engine", "image": "other"}],
    }
    placement = {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": tolerations,
        "priorityClassName": "serving",
        "topologySpread": [{"topologyKey": "kubernetes.io/hostname"}],
    }
    made = pod(job(placement=placement, podTemplate={"spec": theirs}))
    assert made["priorityClassName"] == "serving"
    assert "topologySpreadConstraints" not in made, "there is one Job"
    assert made["nodeSelector"] == {"pool": "gpu"}
    assert made["tolerations"] == tolerations
    assert made["runtimeClassName"] == "nvidia"
    assert made["imagePullSecrets"] == [{"name": "registry"}]
    assert made["securityContext"]["supplementalGroups"] == [5000]
    assert made["securityContext"]["runAsNonRoot"] is True
    assert "hostNetwork" not in made, "what is the engine's own"
    assert [container["name"] for container in made["containers"]] == ["restore"]


def test_the_job_reaches_the_hub_like_a_fetched_model() -> None:
    extra = [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}, {"name": "OTHER", "value": "1"}]
    hub = {"hubEndpoint": "https://mirror", "credentialsSecret": "hub-token"}
    model = {"source": "pvc://models/v4", "restoreMtp": {"source": OFFICIAL}, **hub}
    flash = a_flash(model=model, engine={"extraEnv": extra})
    assert flash.spec.model.restore_mtp
    made = pod(restore_job(flash, flash.spec.model.restore_mtp, SETTINGS))
    (container,) = made["containers"]
    assert {variable["name"]: variable["value"] for variable in container["env"]} == {
        "HOME": "/tmp",
        "HF_ENDPOINT": "https://mirror",
        "HF_TOKEN_PATH": "/etc/flash/hub/token",
        "HTTPS_PROXY": "http://proxy:3128",
    }
    assert container["volumeMounts"][-1] == {"name": "hub", "mountPath": "/etc/flash/hub", "readOnly": True}
    assert made["volumes"][-1]["secret"]["secretName"] == "hub-token"
    engine = pod_template(flash, SETTINGS)["spec"]
    assert "hub" not in [volume["name"] for volume in engine["volumes"]], "only what fetches sees the token"


def test_names_fit_into_a_pods_label() -> None:
    flash = a_flash("x" * 52, model={"source": "pvc://models/v4", "restoreMtp": {"source": OFFICIAL}})
    assert flash.spec.model.restore_mtp
    assert len(restore_job(flash, flash.spec.model.restore_mtp, SETTINGS)["metadata"]["name"]) <= 63


def test_the_baseline_of_a_checkpoint_does_not_apply_to_its_restored_one() -> None:
    running = a_pod(containerStatuses=[{"name": "engine", "imageID": "engine@sha256:1"}])
    (replica,) = replicas_of(an_observed(pods=(running,), nodes=(a_node(),)))
    plain = a_flash()
    restored = a_flash(model={"source": "pvc://models/v4", "restoreMtp": {"source": OFFICIAL}})
    assert baseline_key(plain, replica) != baseline_key(restored, replica)
    assert "pvc://models/v4 |" in str(baseline_key(plain, replica))
