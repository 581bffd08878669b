"""Among ways that all passed, the fastest: by what the probe measured on this node, else by the table.

A decoding step all-reduces some ninety times (docs/topology.md), so microseconds at small sizes are what counts.
Measured times overrule the table only by more than `MARGIN`, since two runs of one arm differ by some percent.
"""

from dataclasses import dataclass

from flash_contracts.flags.table import Row
from flash_contracts.p2p_report import VariantTimes

MARGIN = 0.10
"""Three runs of the probe on one pair differed by 3 % in the arms with peer-to-peer, and once by 20 % in the one
without, which is slower by more than that (docs/topology.md)."""


@dataclass(frozen=True)
class Choice:
    """How to all-reduce where peer-to-peer is proved."""

    custom_all_reduce: bool
    p2p: bool
    why: str


def choose(row: Row, times: VariantTimes | None) -> Choice:
    """`times` None, or without a figure for both arms of a comparison, leaves the table's choice."""
    custom = _faster_custom(row, times)
    if times is None:
        return custom
    fastest = times.peer if custom.custom_all_reduce else times.nccl
    if fastest is not None and times.nccl_p2p_off is not None and _beats(times.nccl_p2p_off, fastest):
        told = f"measured: NCCL through shared memory {times.nccl_p2p_off:g} us, with peer-to-peer {fastest:g} us"
        return Choice(custom_all_reduce=False, p2p=False, why=told)
    return custom


def _faster_custom(row: Row, times: VariantTimes | None) -> Choice:
    if times is None or times.peer is None or times.nccl is None:
        return Choice(row.custom_all_reduce, row.p2p, row.why)
    told = f"measured: custom all-reduce {times.peer:g} us, NCCL {times.nccl:g} us"
    if row.custom_all_reduce and _beats(times.nccl, times.peer):
        return Choice(custom_all_reduce=False, p2p=True, why=told)
    if not row.custom_all_reduce and _beats(times.peer, times.nccl):
        return Choice(custom_all_reduce=True, p2p=True, why=told)
    return Choice(row.custom_all_reduce, row.p2p, row.why)


def _beats(one: float, other: float) -> bool:
    return one < other * (1 - MARGIN)
