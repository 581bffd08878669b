"""A tested verdict on a node's links, and the patch that labels the node with it.

The links are tested by the p2p test, before an engine runs there, or by engines that hung or read wrong data with
peer-to-peer and work without it. Both lead to the same labels, from which flags are derived (flash_contracts.flags).

An engine runs in a tenant's pod, and a label affects everybody. So the report of one deployment's engines is a claim:
its own next engines get safe flags, and the node is tested again when its GPUs are free. Claims of two tenants, which
are deployments in two namespaces, are a verdict.
"""

from dataclasses import dataclass, replace

from flash_contracts.engine_record import Incident
from flash_contracts.names import (
    FORMER_P2P_TESTED_BY_LABEL,
    P2P_ATTEMPT_ANNOTATION,
    P2P_CARDS_LABEL,
    P2P_CLAIMS_ANNOTATION,
    P2P_DRIVER_LABEL,
    P2P_LABEL,
    P2P_REPORT_ANNOTATION,
    P2P_TESTED_BY_LABEL,
)
from flash_contracts.node_facts import LABEL_VALUE, UNKNOWN, NodeFacts
from flash_contracts.p2p_claims import Claim, claims_text, namespace_of
from flash_contracts.p2p_report import ANNOTATION_LIMIT, P2pReport
from flash_operator.core.observed.snapshot import RawObject

REMEDY = (
    "boot with iommu=off or iommu=pt, switch ACS off (docs/topology.md), and remove the label gpu-p2p to test again"
)
"""For the event."""

LABELS = {"healthy": "verified", "hang": "hang", "corrupt": "corrupt"}
"""Verdicts of the p2p test that decide about the links; after any other, the driver's report still counts."""

FOUND_BY_ENGINE = "engine"


@dataclass(frozen=True)
class NodeVerdict:
    """The verdict on a node, with the driver and the cards it holds for, and what found it."""

    node: str
    p2p: str
    driver: str | None
    cards: str | None
    found_by: str
    """The version of the p2p test, or `engine`."""
    report: str
    message: str
    """One sentence for the event."""

    def patch(self) -> RawObject:
        """A merge patch. Omits an unknown driver or cards: the labeller would remove such a verdict."""
        labels = {
            P2P_LABEL: self.p2p,
            P2P_DRIVER_LABEL: self.driver,
            P2P_CARDS_LABEL: None if self.cards == UNKNOWN else self.cards,
            P2P_TESTED_BY_LABEL: self.found_by,
            FORMER_P2P_TESTED_BY_LABEL: None,
        }
        annotations = {
            P2P_REPORT_ANNOTATION: self.report[:ANNOTATION_LIMIT],
            P2P_ATTEMPT_ANNOTATION: None,
            P2P_CLAIMS_ANNOTATION: None,
        }
        return {"metadata": {"labels": labels, "annotations": annotations}}

    @property
    def bad(self) -> bool:
        return self.p2p != "verified"


@dataclass(frozen=True)
class NodeClaim:
    """The claim of one deployment's engines about a node."""

    node: str
    claims: str
    """All claims about the node."""
    message: str

    def patch(self) -> RawObject:
        """A merge patch."""
        return {"metadata": {"annotations": {P2P_CLAIMS_ANNOTATION: self.claims}}}


def from_p2p_test(facts: NodeFacts, report: P2pReport, text: str) -> NodeVerdict | None:
    """None if the test was inconclusive."""
    p2p = LABELS.get(report.verdict)
    if p2p is None:
        return None
    return NodeVerdict(
        node=facts.name,
        p2p=p2p,
        # The node's driver label: later changes of it invalidate the verdict.
        driver=facts.driver or _label(report.driver),
        cards=facts.cards,
        found_by=_label(report.schema) or "p2p-test",
        report=text,
        message=f"gpu-p2p={p2p}: {report.reason}",
    )


def _label(text: str | None) -> str | None:
    """None for an invalid label value: the API server would refuse the whole patch."""
    return text if text and LABEL_VALUE.fullmatch(text) else None


def from_incident(facts: NodeFacts, incident: Incident, deployment: str) -> NodeVerdict | NodeClaim:
    """What follows from an engine of `deployment` that failed with peer-to-peer and passed without it."""
    found = (
        f"an engine of {deployment} under row {incident.row} recovered with the safe flags "
        f"({incident.signature}: {incident.detail})"
    )
    if all(claim.namespace == namespace_of(deployment) for claim in facts.claims):
        mine = Claim(deployment, incident.kind, facts.driver, facts.cards)
        message = f"{found}; the links are tested again when both GPUs are free, and its next engines here are safe"
        return NodeClaim(facts.name, claims_text((*facts.claims, mine)), message)
    message = f"gpu-p2p={incident.kind}: {found}, as one in another namespace did before"
    return NodeVerdict(
        node=facts.name,
        p2p=incident.kind,
        driver=facts.driver,
        cards=facts.cards,
        found_by=FOUND_BY_ENGINE,
        # A tenant's engine may report anything else in any size; only the fault itself goes on the node.
        report=replace(incident, flags=(), evidence={}).to_text(),
        message=message,
    )
