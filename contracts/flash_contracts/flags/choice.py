"""Chooses the fastest all-reduce that passed: by the p2p test's times on this node, otherwise by the table.

A decoding step does about ninety all-reduces (docs/topology.md), so microseconds at small sizes decide. Measured times
override the table only if they differ by more than `MARGIN`, because two runs of the same variant differ by a few
percent.
"""

from dataclasses import dataclass

from flash_contracts.flags.table import Row
from flash_contracts.p2p_report import VariantTimes

MARGIN = 0.10
"""Three runs of the p2p test on one pair differed by 3 % in the variants with peer-to-peer, and once by 20 % in the one
without, which is slower by more than that (docs/topology.md)."""


@dataclass(frozen=True)
class Choice:
    """How to all-reduce on a node with working peer-to-peer."""

    custom_all_reduce: bool
    p2p: bool
    why: str


def choose(row: Row, times: VariantTimes | None) -> Choice:
    """The table's choice, unless `times` has figures for both variants of a comparison that contradict it."""
    custom = _faster_custom(row, times)
    if times is None:
        return custom
    fastest = times.peer if custom.custom_all_reduce else times.nccl
    if fastest is not None and times.nccl_p2p_off is not None and _beats(times.nccl_p2p_off, fastest):
        why = f"measured: NCCL through shared memory {times.nccl_p2p_off:g} us, with peer-to-peer {fastest:g} us"
        return Choice(custom_all_reduce=False, p2p=False, why=why)
    return custom


def _faster_custom(row: Row, times: VariantTimes | None) -> Choice:
    if times is None or times.peer is None or times.nccl is None:
        return Choice(row.custom_all_reduce, row.p2p, row.why)
    why = f"measured: custom all-reduce {times.peer:g} us, NCCL {times.nccl:g} us"
    if row.custom_all_reduce and _beats(times.nccl, times.peer):
        return Choice(custom_all_reduce=False, p2p=True, why=why)
    if not row.custom_all_reduce and _beats(times.peer, times.nccl):
        return Choice(custom_all_reduce=True, p2p=True, why=why)
    return Choice(row.custom_all_reduce, row.p2p, row.why)


def _beats(one: float, other: float) -> bool:
    return one < other * (1 - MARGIN)
