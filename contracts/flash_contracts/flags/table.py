"""The flags table: from link and verdict to custom all-reduce and NCCL's transport.

Evidence: A measured on two cards of this type; B measured on another number or type of cards; C only source code or
documentation; G a guess that the smoke test must confirm. docs/topology.md has the sources for each row.
"""

from dataclasses import dataclass
from typing import Literal

from flash_contracts.node_facts import DRIVER_REFUSED, UNKNOWN, NodeFacts

SEARCHED_GIGABYTES_PER_SECOND = 18.0
"""NCCL on sm_100 and later does not search for paths slower than this, and falls back to a simple order
(NVIDIA/nccl v2.30.7 src/graph/search.cc, sm_100 speed array)."""


@dataclass(frozen=True)
class Row:
    """One row. `p2p` False means all of the safe flags: a subset of them can hang (vllm-project/vllm#51513)."""

    name: str
    link: str
    verdict: str
    custom_all_reduce: bool
    p2p: bool
    p2p_level: Literal["PHB", "SYS"] | None
    evidence: str
    why: str


TABLE = {
    row.name: row
    for row in (
        Row("T1", "nvlink", "verified", True, True, None, "C", "NVLink pair, peer-to-peer verified"),
        Row("T2", "pix, pxb", "verified", True, True, None, "B; custom all-reduce G",
            "GPUs behind one switch, peer-to-peer verified"),
        Row("T3", "phb, node", "verified", True, True, "PHB", "A; P2P_LEVEL B",
            "GPUs in one NUMA node, peer-to-peer verified; NCCL's default level is PXB on Intel and SYS on AMD"),
        Row("T3b", "phb, node below 18 GB/s", "verified", True, True, "PHB", "C, G",
            "as T3, but the link is slower than what NCCL searches for; NCCL_PROTO=LL is a candidate to measure"),
        Row("T4", "sys", "verified", False, True, "SYS", "B, G",
            "GPUs in different NUMA nodes, where one-shot kernels lost 4 to 16 % against NCCL (between two CPUs)"),
        Row("T5", "any", "granted", False, False, None, "A",
            "the driver grants peer-to-peer, but nothing has proved it: such pairs have hung"),
        Row("T6", "any", "cns, gns, tns, dr, ns", False, False, None, "A, B",
            "the driver refuses peer-to-peer"),
        Row("T7", "any", "hang, corrupt, or IOMMU translated, or ACS redirect", False, False, None, "A",
            "peer-to-peer hangs or returns wrong data here, or on hosts set up like this one"),
        Row("T8", "unknown", "unknown", False, False, None, "fail-safe",
            "nothing is known of the links"),
    )
}  # fmt: skip
"""Rows by name, in the order of docs/topology.md."""


def classify(facts: NodeFacts | None, *, trust_driver: bool = False) -> tuple[Row, str]:
    """The row for a node, and the observation that selects it. `trust_driver` treats `granted` as `verified`."""
    if facts is None:
        return TABLE["T8"], "no node is known"
    return _refused(facts) or _unproven(facts, trust_driver=trust_driver) or _proven(facts)


def _refused(facts: NodeFacts) -> tuple[Row, str] | None:
    """A row without peer-to-peer for anything that rules it out. Checked first, because it overrides a good verdict."""
    if facts.p2p in ("hang", "corrupt"):
        return TABLE["T7"], f"gpu-p2p={facts.p2p}"
    if facts.iommu == "translated":
        return TABLE["T7"], "gpu-iommu=translated"
    if facts.acs == "redirect":
        return TABLE["T7"], "gpu-acs=redirect"
    if facts.p2p in DRIVER_REFUSED:
        return TABLE["T6"], f"gpu-p2p={facts.p2p}"
    if impossible_link(facts):
        return TABLE["T8"], f"gpu-link=nvlink on {facts.product}, which has none"
    return None


def _unproven(facts: NodeFacts, *, trust_driver: bool) -> tuple[Row, str] | None:
    if UNKNOWN in (facts.link, facts.p2p):
        missing = " and ".join(n for n, v in (("gpu-link", facts.link), ("gpu-p2p", facts.p2p)) if v == UNKNOWN)
        return TABLE["T8"], f"{missing} unknown"
    if trust_driver:
        return None
    if facts.p2p == "verified" and facts.staleness:
        return TABLE["T5"], facts.staleness
    if facts.p2p == "granted":
        return TABLE["T5"], "gpu-p2p=granted"
    return None


def _proven(facts: NodeFacts) -> tuple[Row, str]:
    seen = f"gpu-link={facts.link}, gpu-p2p={facts.p2p}"
    slow = (facts.pcie_gigabytes_per_second or SEARCHED_GIGABYTES_PER_SECOND) < SEARCHED_GIGABYTES_PER_SECOND
    if facts.link in ("phb", "node"):
        return TABLE["T3b" if slow else "T3"], seen
    return TABLE[{"nvlink": "T1", "pix": "T2", "pxb": "T2", "sys": "T4"}[facts.link]], seen


def impossible_link(facts: NodeFacts) -> bool:
    """Whether the label claims NVLink for a card that has none.

    No RTX PRO 6000 Blackwell has NVLink: eight-card dumps of the Server Edition show only PIX, NODE and SYS
    (local-inference-lab/rtx6kpro, logs/asus-report). The product name is used for nothing else.
    """
    return facts.link == "nvlink" and "RTX-PRO-6000" in (facts.product or "")
