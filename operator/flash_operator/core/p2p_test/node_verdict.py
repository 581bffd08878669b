"""A tested verdict on the links of a node, and the patch that writes it on the node.

Two things test links: the probe, before an engine runs there, and an engine that hung or read wrong data with
peer-to-peer on and is well without. Both end in the same labels, from which flags follow (flash_contracts.flags).
"""

from dataclasses import dataclass, replace

from flash_contracts.engine_record import Incident
from flash_contracts.names import (
    P2P_ATTEMPT_ANNOTATION,
    P2P_CARDS_LABEL,
    P2P_DRIVER_LABEL,
    P2P_LABEL,
    P2P_REPORT_ANNOTATION,
    P2P_TESTED_BY_LABEL,
)
from flash_contracts.node_facts import LABEL_VALUE, UNKNOWN, NodeFacts
from flash_contracts.p2p_report import ANNOTATION_LIMIT, P2pReport
from flash_operator.core.observed.snapshot import RawObject

REMEDY = (
    "mend the host: iommu=off or iommu=pt on the kernel's command line, ACS off on the bridges above the cards, a "
    "driver that is known to work (docs/topology.md); then remove the label deepseekflash.dev/gpu-p2p, and the links "
    "are tested anew"
)

LABELS = {"healthy": "verified", "hang": "hang", "corrupt": "corrupt"}
"""Verdicts of the probe that say something about the links; the others leave the driver's word standing."""

FOUND_BY_ENGINE = "engine"


@dataclass(frozen=True)
class NodeVerdict:
    """What was found on a node, under which driver, with which cards, and by what."""

    node: str
    p2p: str
    driver: str | None
    cards: str | None
    found_by: str
    """The probe's schema, or `engine`."""
    report: str
    told: str
    """One sentence for people."""

    def patch(self) -> RawObject:
        """A merge patch. A driver that nobody knows is left out: the labeller would not let such a verdict stand."""
        labels = {
            P2P_LABEL: self.p2p,
            P2P_DRIVER_LABEL: self.driver,
            P2P_CARDS_LABEL: None if self.cards == UNKNOWN else self.cards,
            P2P_TESTED_BY_LABEL: self.found_by,
        }
        annotations = {P2P_REPORT_ANNOTATION: self.report[:ANNOTATION_LIMIT], P2P_ATTEMPT_ANNOTATION: None}
        return {"metadata": {"labels": labels, "annotations": annotations}}

    @property
    def bad(self) -> bool:
        return self.p2p != "verified"


def from_p2p_test(facts: NodeFacts, report: P2pReport, text: str) -> NodeVerdict | None:
    """None where the probe found nothing out."""
    p2p = LABELS.get(report.verdict)
    if p2p is None:
        return None
    told = f"gpu-p2p={p2p}: {report.reason}"
    return NodeVerdict(
        node=facts.name,
        p2p=p2p,
        # What the node says now: the probe's own word would not be compared with anything.
        driver=facts.driver or _label(report.driver),
        cards=facts.cards,
        found_by=_label(report.schema) or "probe",
        report=text,
        told=f"{told}; {REMEDY}" if p2p != "verified" else told,
    )


def _label(text: str | None) -> str | None:
    """None for what no label may hold: the API server would refuse the verdict with it, again and again."""
    return text if text and LABEL_VALUE.fullmatch(text) else None


def from_incident(facts: NodeFacts, incident: Incident) -> NodeVerdict:
    """An engine that failed with peer-to-peer and then passed without it has tested the node by itself."""
    told = (
        f"gpu-p2p={incident.kind}: an engine under row {incident.row} recovered with the safe flags "
        f"({incident.signature}: {incident.detail}); {REMEDY}"
    )
    return NodeVerdict(
        node=facts.name,
        p2p=incident.kind,
        driver=facts.driver,
        cards=facts.cards,
        found_by=FOUND_BY_ENGINE,
        # What a tenant's engine says beside is not for the node, and may be of any size and depth.
        report=replace(incident, flags=(), evidence={}).to_text(),
        told=told,
    )
