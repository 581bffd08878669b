"""The patch that brings a node's labels to what was read. Pure.

The labels of a node have three writers, and none overwrites another's word:

    the labeller       what NVML and /sys say, and of gpu-p2p the driver's word
    the operator       gpu-p2p as a test or an engine has found it, with the driver and the cards that it holds for
    an administrator   everything, once labels-managed is "false"
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flash_contracts.names import (
    CARDS_LABEL,
    DRIVER_LABEL,
    LABEL_PREFIX,
    LABELS_MANAGED_LABEL,
    P2P_CARDS_LABEL,
    P2P_DRIVER_LABEL,
    P2P_LABEL,
    P2P_REPORT_ANNOTATION,
    P2P_TESTED_BY_LABEL,
)
from flash_contracts.node_facts import TESTED
from flash_node.assessment import Assessment

MATRIX_ANNOTATION = f"{LABEL_PREFIX}gpu-matrix"

TEST_LABELS = (P2P_DRIVER_LABEL, P2P_CARDS_LABEL, P2P_TESTED_BY_LABEL)


@dataclass(frozen=True)
class NodeState:
    """What stands on the Node now, and the version of it that was looked at."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    resource_version: str

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "NodeState":
        metadata = raw["metadata"]
        return cls(
            metadata.get("labels") or {}, metadata.get("annotations") or {}, metadata.get("resourceVersion") or ""
        )

    @property
    def managed(self) -> bool:
        return self.labels.get(LABELS_MANAGED_LABEL) != "false"


def wanted_labels(state: NodeState, found: Assessment) -> dict[str, str | None]:
    """Full names; None for a label that is to go."""
    wanted: dict[str, str | None] = {f"{LABEL_PREFIX}{name}": value for name, value in found.labels.items()}
    if verdict_stands(state, found):
        wanted[P2P_LABEL] = state.labels[P2P_LABEL]
    else:
        wanted.update(dict.fromkeys(TEST_LABELS))
    return wanted


def verdict_stands(state: NodeState, found: Assessment) -> bool:
    """A test holds for the driver and the cards that it was made with, until the driver speaks against it.

    Nodes get other cards, cards other slots, and a node of a cloud another host under its old name. Of a broken link
    the driver says OK as well, so `hang` and `corrupt` stand by the same rule.
    """
    return (
        state.labels.get(P2P_LABEL) in TESTED
        and state.labels.get(P2P_DRIVER_LABEL) == found.labels[DRIVER_LABEL.removeprefix(LABEL_PREFIX)]
        and state.labels.get(P2P_CARDS_LABEL) in (None, found.labels[CARDS_LABEL.removeprefix(LABEL_PREFIX)])
        and found.labels[P2P_LABEL.removeprefix(LABEL_PREFIX)] == "granted"
    )


def patch_for(state: NodeState, found: Assessment) -> dict[str, Any] | None:
    """A merge patch; None where nothing is to be done, or nothing may be.

    It holds the version of the node that it was made for: what the operator writes meanwhile is not overwritten.
    """
    if not state.managed:
        return None
    annotations: dict[str, str | None] = {MATRIX_ANNOTATION: found.matrix}
    if not verdict_stands(state, found):
        annotations[P2P_REPORT_ANNOTATION] = None
    changed = _changes(wanted_labels(state, found), state.labels)
    noted = _changes(annotations, state.annotations)
    if not changed and not noted:
        return None
    metadata = {"resourceVersion": state.resource_version, "labels": changed, "annotations": noted}
    return {"metadata": {name: value for name, value in metadata.items() if value}}


def _changes(wanted: Mapping[str, str | None], there: Mapping[str, str]) -> dict[str, str | None]:
    return {name: value for name, value in wanted.items() if there.get(name) != value}
