"""The autoscalers of a namespace as the API server shows them: which are ours, and which have another owner."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from flash_contracts.names import GROUP, KIND
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.kube import is_owned_by
from flash_operator.core.observed.raw import RawObject

SCALED_OBJECT = "ScaledObject"
HPA = "HorizontalPodAutoscaler"
SCALER_KINDS = (SCALED_OBJECT, HPA)


@dataclass(frozen=True)
class Scalers:
    """What is known of the autoscalers in the deployment's namespace."""

    keda: Literal["Present", "Absent", "Unknown"]
    """Whether the API server serves KEDA's API. Unknown: it could not be asked, or the operator may not."""
    found: tuple[RawObject, ...] = ()
    unreadable: str | None = None
    """Why autoscalers could not be listed, in the API server's words."""
    refusal: str | None = None
    """The API server's answer to the last apply of ours, if it was refused."""

    def ours(self, flash: FlashDeployment) -> tuple[RawObject, ...]:
        return tuple(scaler for scaler in self.found if is_owned_by(scaler, flash.uid))

    def foreign(self, flash: FlashDeployment) -> tuple[RawObject, ...]:
        """Those that scale the deployment, or its Deployment, and are not ours.

        KEDA makes an HPA for each ScaledObject; of the two only the ScaledObject counts.
        """
        others = (scaler for scaler in self.found if not is_owned_by(scaler, flash.uid))
        return tuple(s for s in others if not _is_of_keda(s) and (scales_cr(s, flash) or scales_deployment(s, flash)))

    def of_name(self, kind: str, flash: FlashDeployment) -> RawObject | None:
        """Whatever has the name that ours has."""
        named = (s for s in self.found if (s["kind"], s["metadata"]["name"]) == (kind, flash.name))
        return next(named, None)

    def hpa_of(self, scaled_object: RawObject) -> RawObject | None:
        """The HPA that KEDA made for it."""
        uid = scaled_object["metadata"].get("uid", "")
        return next((s for s in self.found if s["kind"] == HPA and is_owned_by(s, uid)), None)


def scales_cr(scaler: RawObject, flash: FlashDeployment) -> bool:
    group, kind, name = target_of(scaler)
    return (group, kind, name) == (GROUP, KIND, flash.name)


def scales_deployment(scaler: RawObject, flash: FlashDeployment) -> bool:
    """Whose replicas follow `spec.replicas`, so that both would write the same field."""
    group, kind, name = target_of(scaler)
    return (group, kind, name) == ("apps", "Deployment", flash.name)


def described(scalers: tuple[RawObject, ...]) -> str:
    return ", ".join(_descriptions(scalers))


def _descriptions(scalers: tuple[RawObject, ...]) -> Iterator[str]:
    for scaler in scalers:
        _, kind, name = target_of(scaler)
        yield f"{scaler['kind']} {scaler['metadata']['name']} (on {kind} {name})"


def target_of(scaler: RawObject) -> tuple[str, str, str]:
    """Group, kind and name. KEDA scales a Deployment where nothing else is said."""
    target = (scaler.get("spec") or {}).get("scaleTargetRef") or {}
    version = str(target.get("apiVersion") or "apps/v1")
    return version.rpartition("/")[0], str(target.get("kind") or "Deployment"), str(target.get("name", ""))


def _is_of_keda(scaler: RawObject) -> bool:
    owners = scaler["metadata"].get("ownerReferences") or []
    return scaler["kind"] == HPA and any(owner.get("kind") == SCALED_OBJECT for owner in owners)
