"""The keys of deployments and of nodes: what watches enqueue and workers reconcile."""

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
    """Name of a node whose links may want a test."""

    node: str

    def __str__(self) -> str:
        return f"node {self.node}"


Key: TypeAlias = FlashKey | NodeKey


def key_of(raw: RawObject) -> FlashKey:
    """The key of a DeepSeekFlashDeployment."""
    return FlashKey(raw["metadata"]["namespace"], raw["metadata"]["name"])


def parent_key(raw: RawObject) -> FlashKey | None:
    """The key that the label of a child, or of its Job's pod, names; None for an object that is not ours."""
    labels = raw["metadata"].get("labels") or {}
    name = labels.get(DEPLOYMENT_LABEL) or labels.get(RESTORE_LABEL)
    return FlashKey(raw["metadata"]["namespace"], name) if name else None
