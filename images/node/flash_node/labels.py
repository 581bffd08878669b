"""Computes the patch that updates a node's labels to a reading. Pure.

The labels of a node have three writers. None of them overwrites what another has written:

    the labeller       the readings of NVML and /sys; for gpu-p2p, what the driver reports
    the operator       gpu-p2p as found by a test or an engine, with the driver and the cards to which it applies
    an administrator   everything, once labels-managed is "false"
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flash_contracts.names import (
    CARDS_LABEL,
    DRIVER_LABEL,
    FORMER_P2P_TESTED_BY_LABEL,
    LABEL_PREFIX,
    LABELS_MANAGED_LABEL,
    MATRIX_ANNOTATION,
    P2P_CARDS_LABEL,
    P2P_DRIVER_LABEL,
    P2P_LABEL,
    P2P_REPORT_ANNOTATION,
    P2P_TESTED_BY_LABEL,
)
from flash_contracts.node_facts import TESTED
from flash_node.assessment import Assessment

TEST_LABELS = (P2P_DRIVER_LABEL, P2P_CARDS_LABEL, P2P_TESTED_BY_LABEL, FORMER_P2P_TESTED_BY_LABEL)


@dataclass(frozen=True)
class NodeState:
    """Labels and annotations of the Node, and the resource version at which they were read."""

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


def desired_labels(state: NodeState, assessment: Assessment) -> dict[str, str | None]:
    """Labels by their full names. None for a label to remove."""
    desired: dict[str, str | None] = {f"{LABEL_PREFIX}{name}": value for name, value in assessment.labels.items()}
    if verdict_applies(state, assessment):
        desired[P2P_LABEL] = state.labels[P2P_LABEL]
    else:
        desired.update(dict.fromkeys(TEST_LABELS))
    return desired


def verdict_applies(state: NodeState, assessment: Assessment) -> bool:
    """Whether a tested verdict still applies: same driver, same cards, and the driver still grants peer-to-peer.

    Cards are replaced or moved to other slots, and a cloud node may return on another host under its old name. The
    driver grants peer-to-peer on broken links too, so `hang` and `corrupt` follow the same rule.
    """
    return (
        state.labels.get(P2P_LABEL) in TESTED
        and state.labels.get(P2P_DRIVER_LABEL) == assessment.labels[DRIVER_LABEL.removeprefix(LABEL_PREFIX)]
        and state.labels.get(P2P_CARDS_LABEL) in (None, assessment.labels[CARDS_LABEL.removeprefix(LABEL_PREFIX)])
        and assessment.labels[P2P_LABEL.removeprefix(LABEL_PREFIX)] == "granted"
    )


def patch_for(state: NodeState, assessment: Assessment) -> dict[str, Any] | None:
    """A merge patch. None if nothing has changed, or if an administrator manages the labels.

    It contains the resource version at which the node was read, so it cannot overwrite a write of the operator in
    between.
    """
    if not state.managed:
        return None
    annotations: dict[str, str | None] = {MATRIX_ANNOTATION: assessment.matrix}
    if not verdict_applies(state, assessment):
        annotations[P2P_REPORT_ANNOTATION] = None
    changed = _changes(desired_labels(state, assessment), state.labels)
    annotated = _changes(annotations, state.annotations)
    if not changed and not annotated:
        return None
    metadata = {"resourceVersion": state.resource_version, "labels": changed, "annotations": annotated}
    return {"metadata": {name: value for name, value in metadata.items() if value}}


def _changes(desired: Mapping[str, str | None], current: Mapping[str, str]) -> dict[str, str | None]:
    return {name: value for name, value in desired.items() if current.get(name) != value}
