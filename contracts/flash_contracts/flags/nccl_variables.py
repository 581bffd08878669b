"""What NCCL makes of a variable that a user wrote, however it is spelt (NVIDIA/nccl v2.30.7, src/graph)."""

import re
from collections.abc import Mapping

P2P_DISABLE = "NCCL_P2P_DISABLE"
P2P_LEVEL = "NCCL_P2P_LEVEL"
SHM_DISABLE = "NCCL_SHM_DISABLE"
PROTO = "NCCL_PROTO"

_ONE = re.compile(r"\s*\+?(0[xX])?0*1(?![0-9a-fA-F])")
_ZERO = re.compile(r"0[xX]?0*(?![0-9a-fA-F])")
"""NCCL reads numbers with strtol, of any base, and heeds nothing behind them."""


def p2p_is_off(variables: Mapping[str, str]) -> bool:
    """NCCL_P2P_DISABLE is asked first, and is off for 1 alone; then the level, whose least is LOC, or 0."""
    level = variables.get(P2P_LEVEL, "")
    return bool(_ONE.match(variables.get(P2P_DISABLE, "")) or level == "LOC" or _ZERO.match(level))


def why_unsafe(name: str, value: str) -> str | None:
    """Why a variable must not reach NCCL, on any node; None for one that may.

    By itself NCCL keeps LL128 to NVLink. A list that begins with `^` leaves out what it names and forces all the rest.
    """
    if name == SHM_DISABLE:
        return "without shared memory NCCL falls to sockets; remove it from the spec"
    if name == PROTO and ("LL128" in value.upper() or "^" in value):
        return "LL128 corrupts data over PCIe, and ^ forces it too; write LL or Simple, or remove it from the spec"
    return None
