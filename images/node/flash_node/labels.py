"""Computes the patch that updates a node's labels to a reading. Pure.

The labels of a node have three writers. None of them overwrites what another has written:

    the labeller       the readings of NVML and /sys; for gpu-p2p, what the driver reports
    the operator       gpu-p2p as found by a test or an engine, with the driver and the cards to which it applies
    an administrator   everything, once labels-managed is "false"

A value that cannot be read does not replace a known one as long as the driver and the cards may still be the same: a
card that is lost for a minute or a driver that is being loaded does not invalidate a verdict.
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
from flash_contracts.node_facts import TESTED, UNKNOWN, VOCABULARY, differs
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
    """The labels to set, by their full names. None removes a label."""
    desired: dict[str, str | None] = {f"{LABEL_PREFIX}{name}": value for name, value in assessment.labels.items()}
    if _may_be_the_same(state, assessment):
        desired.update(_kept(state, assessment))
    if verdict_applies(state, assessment):
        desired[P2P_LABEL] = state.labels[P2P_LABEL]
    else:
        desired.update(dict.fromkeys(TEST_LABELS))
    return desired


def verdict_applies(state: NodeState, assessment: Assessment) -> bool:
    """Whether a tested verdict still applies: same driver, same cards, and the driver does not refuse peer-to-peer.

    Cards are replaced or moved to other slots, and a cloud node may return on another host under its old name. The
    driver grants peer-to-peer on broken links too, so `hang` and `corrupt` follow the same rule. Only a known change
    ends a verdict.
    """
    driver, cards = _read(assessment, DRIVER_LABEL), _read(assessment, CARDS_LABEL)
    return (
        state.labels.get(P2P_LABEL) in TESTED
        and driver in (state.labels.get(P2P_DRIVER_LABEL), UNKNOWN)
        and not differs(state.labels.get(P2P_CARDS_LABEL), cards)
        and _read(assessment, P2P_LABEL) in ("granted", UNKNOWN)
    )


def _may_be_the_same(state: NodeState, assessment: Assessment) -> bool:
    """Whether the driver and the cards may be those that the labels describe."""
    return not any(differs(state.labels.get(name), _read(assessment, name)) for name in (DRIVER_LABEL, CARDS_LABEL))


def _kept(state: NodeState, assessment: Assessment) -> dict[str, str | None]:
    """The labels that a reading leaves unchanged: those that it could not read, and all of them if it missed a card.

    A tested verdict has its own rules.
    """
    missed_a_card = _read(assessment, CARDS_LABEL) == UNKNOWN
    unread = [name for name, value in assessment.labels.items() if value == UNKNOWN or missed_a_card]
    current = {f"{LABEL_PREFIX}{name}": state.labels.get(f"{LABEL_PREFIX}{name}") for name in unread}
    return {
        name: value
        for name, value in current.items()
        if value is not None
        and _is_reading(name, value)
        and name.removeprefix(LABEL_PREFIX) not in assessment.undecided
    }


def _is_reading(name: str, value: str) -> bool:
    """Whether the labeller itself may have written this value."""
    if name == P2P_LABEL and value in TESTED:
        return False
    return value in VOCABULARY.get(name.removeprefix(LABEL_PREFIX), (value,))


def _read(assessment: Assessment, label: str) -> str:
    return assessment.labels[label.removeprefix(LABEL_PREFIX)]


def patch_for(state: NodeState, assessment: Assessment) -> dict[str, Any] | None:
    """A merge patch. None if nothing has changed, or if an administrator manages the labels.

    It contains the resource version at which the node was read, so it cannot overwrite what the operator wrote in
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
