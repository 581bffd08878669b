"""How NCCL interprets a variable's value, whatever its spelling (NVIDIA/nccl v2.30.7, src/graph)."""

import re
from collections.abc import Mapping

P2P_DISABLE = "NCCL_P2P_DISABLE"
P2P_LEVEL = "NCCL_P2P_LEVEL"
SHM_DISABLE = "NCCL_SHM_DISABLE"
PROTO = "NCCL_PROTO"

_ONE = re.compile(r"\s*\+?(0[xX])?0*1(?![0-9a-fA-F])")
_ZERO = re.compile(r"0[xX]?0*(?![0-9a-fA-F])")
"""NCCL parses numbers with strtol: any base, ignoring trailing characters."""


def p2p_is_off(variables: Mapping[str, str]) -> bool:
    """Whether NCCL disables peer-to-peer: NCCL_P2P_DISABLE is 1, or else the level is the lowest one, LOC or 0."""
    level = variables.get(P2P_LEVEL, "")
    return bool(_ONE.match(variables.get(P2P_DISABLE, "")) or level == "LOC" or _ZERO.match(level))


def why_unsafe(name: str, value: str) -> str | None:
    """Why a variable must not be set on any node; None if it may be.

    By default NCCL uses LL128 only on NVLink. A list that begins with `^` excludes what it names and forces the rest.
    """
    if name == SHM_DISABLE:
        return "without shared memory NCCL falls to sockets; remove it from the spec"
    if name == PROTO and ("LL128" in value.upper() or "^" in value):
        return "LL128 corrupts data over PCIe, and ^ forces it too; write LL or Simple, or remove it from the spec"
    return None
