"""The facts about a node that flags may depend on, read from its labels.

When a Node object changes, only these facts are compared, because the kubelet updates its Node every few seconds.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from flash_contracts.names import (
    CARDS_LABEL,
    DRIVER_LABEL,
    LABEL_PREFIX,
    LABELS_MANAGED_LABEL,
    P2P_CARDS_LABEL,
    P2P_CLAIMS_ANNOTATION,
    P2P_DRIVER_LABEL,
    P2P_REPORT_ANNOTATION,
)
from flash_contracts.p2p_claims import Claim, parse_claims
from flash_contracts.p2p_report import P2pReport, VariantTimes

T = TypeVar("T")

UNKNOWN = "unknown"

LINKS = ("nvlink", "pix", "pxb", "phb", "node", "sys", UNKNOWN)
"""The worst link between two GPUs, in nvidia-smi's terms; closest first."""

DRIVER_REFUSED = ("cns", "gns", "tns", "dr", "ns")
"""The driver's reasons for refusing peer-to-peer: chipset, GPU, topology, registry key, other."""

P2P_VERDICTS = ("verified", "granted", *DRIVER_REFUSED, "hang", "corrupt", UNKNOWN)
"""`granted` means that the driver permits it, untested. `verified`, `hang` and `corrupt` come from a p2p test, which
checks the transferred values, or from an engine's incident."""

VOCABULARY = {
    "gpu-link": LINKS,
    "gpu-p2p": P2P_VERDICTS,
    "gpu-iommu": ("off", "identity", "translated", UNKNOWN),
    "gpu-acs": ("off", "redirect", UNKNOWN),
}

PCIE = re.compile(r"^gen(?P<generation>[1-7])-x(?P<lanes>1|2|4|8|16)$")

NUMA_NODES = re.compile(r"\d{1,4}-\d{1,4}")
WATTS = re.compile(r"\d{1,5}")

LANE_GIGABYTES_PER_SECOND = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.97, 5: 3.94, 6: 7.56, 7: 15.1}
"""Usable rate of one PCIe lane by generation."""

LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
"""Label values that the API server accepts, except for the empty one."""

DRIVER_LABELS = (DRIVER_LABEL, "nvidia.com/cuda.driver-version.full", "nvidia.com/cuda.driver.full")
PRODUCT_LABEL = "nvidia.com/gpu.product"

TESTED = ("verified", "hang", "corrupt")
"""Verdicts of a test. They apply only to the driver and the cards that were tested."""


def differs(learned: str | None, now: str | None) -> bool:
    """Whether a driver or a set of cards is known to have changed. If it is unknown now, it may be the same."""
    return bool(learned and now) and UNKNOWN not in (learned, now) and learned != now


@dataclass(frozen=True)
class NodeFacts:
    """The facts about one node. A missing or invalid label is `unknown`."""

    name: str
    link: str = UNKNOWN
    p2p: str = UNKNOWN
    iommu: str = UNKNOWN
    acs: str = UNKNOWN
    pcie_gigabytes_per_second: float | None = None
    numa_nodes: tuple[int, ...] = ()
    """NUMA node of each GPU that an engine gets here, in the driver's order; empty if unknown."""
    product: str | None = None
    power_watts: int | None = None
    """Enforced power limit, the lowest of all cards."""
    driver: str | None = None
    """None if it is unknown, as are the three below."""
    tested_driver: str | None = None
    cards: str | None = None
    """Hash of which card is in which slot."""
    tested_cards: str | None = None
    gpus: int = 0
    variant_times: VariantTimes | None = None
    """All-reduce times of each variant, from the p2p test's report."""
    claims: tuple[Claim, ...] = ()
    """Claims of engines about the links, with the current driver and cards."""
    managed: bool = True
    """False if an administrator maintains the labels manually."""
    schedulable: bool = True
    warnings: tuple[str, ...] = field(default=())
    """A message for each invalid label value."""

    @classmethod
    def from_node(cls, raw: Mapping[str, Any]) -> "NodeFacts":
        """Read a raw Node. Never raises, whatever its labels contain."""
        labels: dict[str, str] = raw["metadata"].get("labels") or {}
        known, warnings = _enumerated(labels)
        speed = _parsed(labels, "gpu-pcie", _pcie_speed, "gen5-x16", warnings)
        numa_nodes = _parsed(labels, "gpu-numa-nodes", _numa_nodes, "0-1", warnings)
        power = _parsed(labels, "gpu-power-w", _watts, "600", warnings)
        facts = cls(
            name=raw["metadata"]["name"],
            link=known["gpu-link"],
            p2p=known["gpu-p2p"],
            iommu=known["gpu-iommu"],
            acs=known["gpu-acs"],
            pcie_gigabytes_per_second=speed,
            numa_nodes=numa_nodes or (),
            product=labels.get(PRODUCT_LABEL),
            power_watts=power,
            driver=next(filter(None, (_known(labels, name) for name in DRIVER_LABELS)), None),
            tested_driver=_known(labels, P2P_DRIVER_LABEL),
            cards=_known(labels, CARDS_LABEL),
            tested_cards=_known(labels, P2P_CARDS_LABEL),
            gpus=_gpus(raw),
            variant_times=_variant_times(raw),
            managed=labels.get(LABELS_MANAGED_LABEL) != "false",
            schedulable=not raw.get("spec", {}).get("unschedulable", False),
            warnings=tuple(warnings),
        )
        claims = parse_claims((raw["metadata"].get("annotations") or {}).get(P2P_CLAIMS_ANNOTATION))
        return replace(facts, claims=tuple(claim for claim in claims if facts.is_about(claim)))

    def is_about(self, claim: Claim) -> bool:
        """Whether the claim applies to the node's current driver and cards, as far as they are known."""
        return not differs(claim.driver, self.driver) and not differs(claim.cards, self.cards)

    def with_claim_of(self, deployment: str) -> "NodeFacts":
        """The facts for the engines of one deployment, including its own claim."""
        claim = next((claim for claim in self.claims if claim.deployment == deployment), None)
        if claim is None or self.p2p not in ("verified", "granted"):
            return self
        return replace(self, p2p=claim.kind, tested_driver=self.driver, tested_cards=self.cards)

    @property
    def speed_class(self) -> str:
        """What two nodes must have in common for one engine to be equally fast on both."""
        pcie = f"{self.pcie_gigabytes_per_second:g}" if self.pcie_gigabytes_per_second is not None else UNKNOWN
        power = UNKNOWN if self.power_watts is None else str(self.power_watts)
        return f"link={self.link} p2p={self.p2p} gpu={self.product or UNKNOWN} watts={power} pcie={pcie}"

    @property
    def staleness(self) -> str | None:
        """What has changed since the p2p test, which invalidates its verdict; None if nothing has."""
        if differs(self.tested_driver, self.driver):
            return f"verified under driver {self.tested_driver}, the node has {self.driver}"
        if differs(self.tested_cards, self.cards):
            return "verified with other cards, or in other slots"
        return None


def _known(labels: dict[str, str], name: str) -> str | None:
    value = labels.get(name)
    return None if value == UNKNOWN else value


def _enumerated(labels: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    known, warnings = {}, []
    for name, values in VOCABULARY.items():
        value = labels.get(f"{LABEL_PREFIX}{name}", UNKNOWN)
        known[name] = value if value in values else UNKNOWN
        if value not in values:
            warnings.append(f"{LABEL_PREFIX}{name}={value!r} is not one of {', '.join(values)}")
    return known, warnings


def _variant_times(raw: Mapping[str, Any]) -> VariantTimes | None:
    text = (raw["metadata"].get("annotations") or {}).get(P2P_REPORT_ANNOTATION)
    return P2pReport.of_text(text).variant_times if text else None


def _parsed(
    labels: dict[str, str], name: str, read: Callable[[str], T | None], example: str, warnings: list[str]
) -> T | None:
    """Parse a label with `read`. None if it is missing, unknown or malformed; a malformed one adds a warning."""
    value = labels.get(f"{LABEL_PREFIX}{name}", UNKNOWN)
    found = read(value)
    if found is None and value != UNKNOWN:
        warnings.append(f"{LABEL_PREFIX}{name}={value!r} does not have the form {example}")
    return found


def _pcie_speed(label: str) -> float | None:
    match = PCIE.match(label)
    if match is None:
        return None
    return LANE_GIGABYTES_PER_SECOND[int(match["generation"])] * int(match["lanes"])


def _watts(label: str) -> int | None:
    return int(label) if WATTS.fullmatch(label) else None


def _numa_nodes(label: str) -> tuple[int, ...] | None:
    return tuple(int(node) for node in label.split("-")) if NUMA_NODES.fullmatch(label) else None


def _gpus(raw: Mapping[str, Any]) -> int:
    amount = str(raw.get("status", {}).get("allocatable", {}).get("nvidia.com/gpu", "0"))
    return int(amount) if amount.isdigit() else 0
