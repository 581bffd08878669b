"""An image as a model: mounted if the cluster supports it, otherwise fetched, without switching between the two."""

from typing import Any

import pytest

from builders import SETTINGS, a_flash, a_gate, a_live_deployment, a_node, a_pod, an_observed, condition
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import desired_children, plan
from flash_operator.core.resources.deployment import pod_template
from flash_operator.core.resources.image_volume import to_be_asked

IMAGE = "oci://images.example/team/v4:1"


def of_an_image(**model: Any) -> FlashDeployment:
    return a_flash(model={"source": IMAGE, **model})


def template(flash: FlashDeployment) -> RawObject:
    made: RawObject = pod_template(flash, SETTINGS)["spec"]
    return made


def how(child: RawObject) -> str:
    """How the model comes into the pods of a Deployment."""
    spec = child["spec"]["template"]["spec"]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "model"]
    fetched = "fetch" in [container["name"] for container in spec["initContainers"]]
    assert fetched != ("image" in volume), "one of the two, and never both"
    return "Fetch" if fetched else "ImageVolume"


def deployment_of(observed: Observed) -> RawObject:
    return next(child for child in desired_children(observed) if child["kind"] == "Deployment")


def without_its_volume(live: RawObject) -> RawObject:
    """As stored by an API server without image volumes: the volume and its mounts are dropped."""
    spec = live["spec"]["template"]["spec"]
    kept = [one for one in spec["volumes"] if one["name"] != "model"]
    engine = spec["containers"][0]
    mounts = [mount for mount in engine["volumeMounts"] if mount["name"] != "model"]
    left = {**spec, "volumes": kept, "containers": [{**engine, "volumeMounts": mounts}]}
    return {**live, "spec": {**live["spec"], "template": {**live["spec"]["template"], "spec": left}}}


MOUNTS = a_live_deployment(of_an_image(ociDelivery="ImageVolume"))
FETCHES = a_live_deployment(of_an_image(ociDelivery="Fetch"))
NEITHER = without_its_volume(MOUNTS)

CHOICES: dict[str, tuple[str, RawObject | None, bool | None, str]] = {
    "nothing lives, and the server keeps image volumes": ("Auto", None, True, "ImageVolume"),
    "nothing lives, and the server drops them": ("Auto", None, False, "Fetch"),
    "nothing lives, and the server would not say": ("Auto", None, None, "ImageVolume"),
    "what lives mounts it, whatever the server would do today": ("Auto", MOUNTS, False, "ImageVolume"),
    "what lives fetches it, whatever the server could do today": ("Auto", FETCHES, True, "Fetch"),
    "what lives has lost its volume to the server": ("Auto", NEITHER, False, "Fetch"),
    "what lives has lost its volume to a person": ("Auto", NEITHER, True, "ImageVolume"),
    "a request to fetch": ("Fetch", MOUNTS, True, "Fetch"),
    "a request to mount": ("ImageVolume", FETCHES, False, "ImageVolume"),
}


@pytest.mark.parametrize(("requested", "live", "keeps", "expected"), CHOICES.values(), ids=CHOICES.keys())
def test_the_delivery_of_an_image(requested: str, live: RawObject | None, *, keeps: bool | None, expected: str) -> None:
    observed = an_observed(of_an_image(ociDelivery=requested), children=(live,) if live else (), image_volumes=keeps)
    assert how(deployment_of(observed)) == expected


ASKED: dict[str, tuple[FlashDeployment, RawObject | None, bool]] = {
    "nothing lives": (of_an_image(), None, True),
    "what lives does neither": (of_an_image(), NEITHER, True),
    "what lives mounts it": (of_an_image(), MOUNTS, False),
    "what lives fetches it": (of_an_image(), FETCHES, False),
    "a request": (of_an_image(ociDelivery="Fetch"), None, False),
    "a claim": (a_flash(), None, False),
    "a hub": (a_flash(model={"source": "hf://owner/name"}), None, False),
}


@pytest.mark.parametrize(("flash", "live", "asked"), ASKED.values(), ids=ASKED.keys())
def test_the_server_is_asked_only_where_it_matters(
    flash: FlashDeployment, live: RawObject | None, *, asked: bool
) -> None:
    assert to_be_asked(flash, live) is asked


@pytest.mark.parametrize(("requested", "keeps"), [("Auto", False), ("Auto", True), ("Fetch", False)])
def test_a_deployment_that_was_applied_is_left_alone(requested: str, *, keeps: bool) -> None:
    flash = of_an_image(ociDelivery=requested)
    before = an_observed(flash, image_volumes=keeps)
    after = an_observed(flash, children=tuple(plan(before).apply), pods=(a_pod(),), nodes=(a_node(),))
    assert "Deployment" not in [child["kind"] for child in plan(after).apply]


def test_missing_image_volumes_are_reported_and_the_deployment_is_not_rewritten() -> None:
    observed = an_observed(
        of_an_image(ociDelivery="ImageVolume"), pods=(a_pod(),), nodes=(a_node(),), children=(NEITHER,)
    )
    made = plan(observed)
    assert "Deployment" not in [child["kind"] for child in made.apply]
    for name in ("Ready", "Progressing"):
        found = condition(made.status, name)
        assert (found["status"], found["reason"]) == ("False", "ImageVolumesAbsent")
        assert "set it to Auto or Fetch" in found["message"]


def test_what_an_earlier_operator_left_without_a_volume_is_fetched_instead() -> None:
    made = plan(an_observed(of_an_image(), children=(NEITHER,), image_volumes=False))
    (deployment,) = [child for child in made.apply if child["kind"] == "Deployment"]
    assert how(deployment) == "Fetch"
    assert "ImageVolumesAbsent" not in str(made.status)


def test_a_volume_that_somebody_took_out_by_hand_comes_back() -> None:
    live = without_its_volume(a_live_deployment(a_flash()))
    made = plan(an_observed(pods=(a_pod(),), nodes=(a_node(),), children=(live,)))
    assert "Deployment" in [child["kind"] for child in made.apply]


def test_the_container_that_pulls_in_full() -> None:
    flash = a_flash(
        model={
            "source": IMAGE, "ociDelivery": "Fetch", "credentialsSecret": "pull",
            "cache": {"type": "Claim", "claimName": "models", "maxGibibytes": 400},
        },
        podTemplate={"spec": {"imagePullSecrets": [{"name": "ours"}, {"name": "pull"}]}},
    )  # fmt: skip
    made = template(flash)
    (container,) = [one for one in made["initContainers"] if one["name"] == "fetch"]
    assert container["command"] == ["flash-fetch"]
    assert container["env"] == [
        {"name": "HOME", "value": "/tmp"},
        {"name": "FLASH_RUN_DIR", "value": "/run/flash"},
        {"name": "FLASH_MODEL_SOURCE", "value": IMAGE},
        {"name": "FLASH_MODEL_CACHE", "value": "/models"},
        {"name": "HF_HUB_OFFLINE", "value": "0"},
        {"name": "FLASH_MODEL_CACHE_KIND", "value": "Claim"},
        {"name": "FLASH_MODEL_CACHE_NAME", "value": "models"},
        {"name": "FLASH_MODEL_CACHE_GIBIBYTES", "value": "400"},
        {"name": "FLASH_REGISTRY_SECRETS", "value": "/etc/flash/registry"},
        {"name": "FLASH_REGISTRY_SECRET", "value": "pull"},
    ]
    assert container["volumeMounts"] == [
        {"name": "run", "mountPath": "/run/flash"},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "model", "mountPath": "/models"},
        {"name": "registry", "mountPath": "/etc/flash/registry", "readOnly": True},
    ]
    volumes = {volume["name"]: volume for volume in made["volumes"]}
    assert volumes["model"] == {"name": "model", "persistentVolumeClaim": {"claimName": "models"}}
    assert volumes["registry"]["projected"] == {
        "defaultMode": 0o440,
        "sources": [
            {
                "secret": {
                    "name": name,
                    "items": [{"key": ".dockerconfigjson", "path": f"{name}.json"}],
                    "optional": True,
                }
            }
            for name in ("pull", "ours")
        ],
    }


def test_a_public_image_needs_no_secret() -> None:
    made = template(of_an_image(ociDelivery="Fetch"))
    assert "registry" not in [volume["name"] for volume in made["volumes"]]
    assert "hub" not in [volume["name"] for volume in made["volumes"]]
    (container,) = [one for one in made["initContainers"] if one["name"] == "fetch"]
    assert not [one for one in container["env"] if one["name"].startswith("FLASH_REGISTRY")]


def test_only_the_fetch_container_sees_the_password() -> None:
    made = template(of_an_image(ociDelivery="Fetch", credentialsSecret="pull"))
    seen_by = [
        container["name"]
        for container in (*made["initContainers"], *made["containers"])
        if "registry" in [mount["name"] for mount in container["volumeMounts"]]
    ]
    assert seen_by == ["fetch"]


def test_the_kubelet_mounts_an_image_with_the_same_secrets() -> None:
    flash = a_flash(
        model={"source": IMAGE, "ociDelivery": "ImageVolume", "credentialsSecret": "pull"},
        podTemplate={"spec": {"imagePullSecrets": [{"name": "ours"}]}},
    )
    made = template(flash)
    assert made["imagePullSecrets"] == [{"name": "pull"}, {"name": "ours"}]
    assert {
        "name": "model",
        "image": {"reference": IMAGE.removeprefix("oci://"), "pullPolicy": "IfNotPresent"},
    } in made["volumes"]
    assert "imagePullSecrets" not in template(of_an_image(ociDelivery="Fetch", credentialsSecret="pull"))


def test_the_engine_loads_the_pulled_image_and_contacts_no_registry() -> None:
    engine = template(of_an_image(ociDelivery="Fetch"))["containers"][0]
    assert engine["args"][:2] == ["serve", "/run/flash/model"]
    mounted = template(of_an_image(ociDelivery="ImageVolume"))["containers"][0]
    assert mounted["args"][:2] == ["serve", "/models"]


def test_a_pulled_image_is_reported_by_its_digest() -> None:
    digest = f"sha256:{'a' * 64}"
    delivery = {"phase": "Complete", "commit": digest, "totalBytes": 3 << 30, "attempts": 1, "warning": "1 is a tag"}
    gate = a_gate("EngineStarting", "loading", delivery=delivery)
    flash = of_an_image(ociDelivery="Fetch")
    made = plan(an_observed(flash, pods=(a_pod(phase="Pending"),), nodes=(a_node(),), gates={"flash-a": gate}))
    assert [(event.reason, event.message) for event in made.events] == [
        ("ModelDelivered", f"flash-a: 3.0 GiB at digest {digest}"),
        ("RevisionNotPinned", "flash-a: 1 is a tag"),
    ]


def test_a_tag_that_moved_between_two_replicas_is_reported_with_both_digests() -> None:
    digests = [f"sha256:{letter * 64}" for letter in "ab"]
    flash = a_flash(replicas=2, model={"source": IMAGE, "ociDelivery": "Fetch"})
    gates = {
        f"flash-{number}": a_gate(delivery={"phase": "Complete", "commit": digest, "attempts": 1})
        for number, digest in enumerate(digests)
    }
    pods = tuple(a_pod(name, ready=True) for name in gates)
    made = plan(an_observed(flash, pods=pods, nodes=(a_node(),), gates=gates, children=(a_live_deployment(flash),)))
    found = condition(made.status, "Degraded")
    assert found["reason"] == "RevisionMoved"
    assert all(digest in found["message"] for digest in digests)
    assert "a digest instead of the tag" in found["message"]
