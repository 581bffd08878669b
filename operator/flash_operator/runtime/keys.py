"""The work queue's keys: deployments and nodes."""

from typing import NamedTuple, TypeAlias

from flash_contracts.names import DEPLOYMENT_LABEL, RESTORE_LABEL
from flash_operator.core.observed.snapshot import RawObject


class FlashKey(NamedTuple):
    """Namespace and name of a DeepSeekFlashDeployment."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class NodeKey(NamedTuple):
    """Name of a node with GPUs."""

    node: str

    def __str__(self) -> str:
        return f"node {self.node}"


Key: TypeAlias = FlashKey | NodeKey


def key_of(raw: RawObject) -> FlashKey:
    """The key of a DeepSeekFlashDeployment."""
    return FlashKey(raw["metadata"]["namespace"], raw["metadata"]["name"])


def is_of_class(raw: RawObject, operator_class: str) -> bool:
    """Whether the operator of this class is responsible for a DeepSeekFlashDeployment."""
    return ((raw.get("spec") or {}).get("operatorClass") or "") == operator_class


def parent_key(raw: RawObject) -> FlashKey | None:
    """The deployment named by the label of a child or of its Job's pod; None for other objects."""
    labels = raw["metadata"].get("labels") or {}
    name = labels.get(DEPLOYMENT_LABEL) or labels.get(RESTORE_LABEL)
    return FlashKey(raw["metadata"]["namespace"], name) if name else None
