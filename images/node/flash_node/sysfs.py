"""Reads from /sys what any user may read about a card: its NUMA node, its root complex, and its IOMMU mode.

/sys in a container shows the host's devices, so nothing needs to be mounted.
"""

import os
import re
from pathlib import Path
from typing import Literal

from flash_node.acs import redirects
from flash_node.dump import GpuDump

SYS = Path("/sys")
ROOT_COMPLEX = re.compile(r"^pci[0-9a-f]{4}:[0-9a-f]{2}$")
PCI_ADDRESS = re.compile(r"^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")

IOMMU_TYPES: dict[str, Literal["identity", "translated"]] = {
    "identity": "identity",
    "DMA": "translated",
    "DMA-FQ": "translated",
}
"""Values of /sys/kernel/iommu_groups/N/type (kernel: Documentation/ABI/testing/sysfs-kernel-iommu_groups)."""


def with_sysfs(gpu: GpuDump, root: Path = SYS) -> GpuDump:
    """Add the readings from /sys. Returns the card unchanged if /sys does not list it, as in some virtual machines."""
    if gpu.bus is None:
        return gpu
    device = root / "bus" / "pci" / "devices" / gpu.bus
    if not device.exists():
        return gpu
    path = Path(os.path.realpath(device))
    return gpu.model_copy(
        update={
            "numa_node": _numa_node(device),
            "pcie_root": next((part for part in path.parts if ROOT_COMPLEX.match(part)), None),
            "iommu": _iommu(device),
            "acs": _acs(path),
        }
    )


def loaded_driver(root: Path = SYS) -> str | None:
    """Version of the driver that is loaded into the kernel. None if there is none."""
    return _read(root / "module" / "nvidia" / "version")


def _numa_node(device: Path) -> int | None:
    text = _read(device / "numa_node")
    try:
        node = int(text or "-1")
    except ValueError:
        return None
    return node if node >= 0 else None


def _iommu(device: Path) -> Literal["off", "identity", "translated"] | None:
    """A device without a group is not behind an IOMMU."""
    group = device / "iommu_group"
    if not group.is_symlink() and not group.exists():
        return "off"
    return IOMMU_TYPES.get(_read(group / "type") or "")


def _acs(device: Path) -> Literal["off", "redirect"] | None:
    """Checks the bridges between the card and its root complex. A bridge that cannot be read might redirect."""
    bridges = [bridge for bridge in device.parents if PCI_ADDRESS.match(bridge.name)]
    found = [redirects(_bytes(bridge / "config")) for bridge in bridges]
    if True in found:
        return "redirect"
    return "off" if found and None not in found else None


def _read(file: Path) -> str | None:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return None


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
