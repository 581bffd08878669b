"""Decides how an oci:// model gets into its pods: as an image volume, or downloaded by the init container.

    model.ociDelivery | the live Deployment           | the API server keeps image volumes | delivery
    ----------------- | ----------------------------- | ---------------------------------- | ------------------
    ImageVolume       | any                           | any                                | as an image volume
    Fetch             | any                           | any                                | by the container
    Auto              | mounts the image              | any                                | as an image volume
                      | fetches it                    | any                                | by the container
                      | none, or it does neither      | yes, or unknown                    | as an image volume
                      |                               | no                                 | by the container

An existing Deployment keeps its way, so that a change of the cluster restarts no engine. Before there is one, the API
server is asked by a dry run (`runtime.observer`): a server without image volumes accepts the Deployment and silently
removes the volume, as Kubernetes does before 1.35 without the feature gate ImageVolume. The engines would find an
empty folder, and the operator would apply the volume forever.
"""

from dataclasses import replace
from typing import Literal

from flash_contracts.names import APPLIED_HASH_ANNOTATION
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.pod_failure import PodFailure
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.resources.model_source import ModelSource

Delivery = Literal["ImageVolume", "Fetch"]

DROPPED = PodFailure(
    "ImageVolumesAbsent",
    "this cluster has no image volumes, which model.ociDelivery asks for: set it to Auto or Fetch, and an init "
    "container pulls the image; or enable the feature gate ImageVolume of API server and kubelet (on by default from "
    "Kubernetes 1.35)",
)


def settled(observed: Observed) -> Observed:
    """The snapshot with `Auto` replaced by the decision, so that everything else depends on the spec only."""
    flash = observed.flash
    if not _is_open(flash):
        return observed
    live = observed.children.get(("Deployment", flash.name))
    return replace(observed, flash=_with(flash, _live_delivery(live) or _possible(observed.image_volumes)))


def to_be_asked(flash: FlashDeployment, live: RawObject | None) -> bool:
    """Whether the decision depends on the API server."""
    return _is_open(flash) and _live_delivery(live) is None


def keeps_image_volumes(answer: RawObject) -> bool:
    """`answer` is the Deployment as the API server would store it."""
    return bool(_image_volumes(answer))


def is_dropped(desired: RawObject, live: RawObject | None) -> bool:
    """The live Deployment is the applied one without its image volume: the API server removed it."""
    if live is None or not _image_volumes(desired):
        return False
    return _hash(live) == _hash(desired) and not _image_volumes(live)


def _is_open(flash: FlashDeployment) -> bool:
    model = flash.spec.model
    return ModelSource(model).is_image and model.oci_delivery == "Auto"


def _with(flash: FlashDeployment, delivery: Delivery) -> FlashDeployment:
    model = flash.spec.model.model_copy(update={"oci_delivery": delivery})
    return flash.model_copy(update={"spec": flash.spec.model_copy(update={"model": model})})


def _possible(image_volumes: bool | None) -> Delivery:  # noqa: FBT001 - it is a fact, and no switch
    return "Fetch" if image_volumes is False else "ImageVolume"


def _live_delivery(live: RawObject | None) -> Delivery | None:
    if live is None:
        return None
    if any(volume["name"] == "model" for volume in _image_volumes(live)):
        return "ImageVolume"
    fetches = any(container["name"] == "fetch" for container in _pod(live).get("initContainers") or [])
    return "Fetch" if fetches else None


def _image_volumes(child: RawObject) -> list[RawObject]:
    return [volume for volume in _pod(child).get("volumes") or [] if "image" in volume]


def _pod(child: RawObject) -> RawObject:
    found: RawObject = (
        child.get("spec", {}).get("template", {}).get("spec", {}) if child.get("kind") == "Deployment" else {}
    )
    return found


def _hash(child: RawObject) -> str | None:
    found: str | None = child["metadata"].get("annotations", {}).get(APPLIED_HASH_ANNOTATION)
    return found
