"""Reads Access Control Services from a PCIe bridge's configuration space (PCIe Base Specification 6.0, 7.7.11).

With request or completion redirect enabled, a bridge forwards the writes of one card to another through the root
complex, where they may get lost (../../../docs/topology.md).
"""

import struct

PLAIN_SPACE = 256
"""Extended capabilities start here. The kernel shows users other than root only the bytes before it."""

EXTENDED_SPACE = 4096
ACS = 0x000D
CONTROL = 6
REQUEST_REDIRECT, COMPLETION_REDIRECT = 1 << 2, 1 << 3


def redirects(config: bytes) -> bool | None:
    """Whether the bridge redirects. None if the extended space is not readable. Without the capability, it does not."""
    if len(config) < EXTENDED_SPACE:
        return None
    offset = PLAIN_SPACE
    for _ in range(EXTENDED_SPACE // 8):
        (header,) = struct.unpack_from("<I", config, offset)
        if header & 0xFFFF == ACS:
            (control,) = struct.unpack_from("<H", config, offset + CONTROL)
            return bool(control & (REQUEST_REDIRECT | COMPLETION_REDIRECT))
        offset = header >> 20
        if offset < PLAIN_SPACE or offset > EXTENDED_SPACE - 8:
            return False
    return False
