"""Reads from /sys what any user may know about a host's cards: NUMA nodes, root complexes and IOMMU modes.

/sys in a container shows the host's devices, so nothing needs to be mounted.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from flash_node.acs import redirects
from flash_node.dump import GpuDump, NumaDump, OtherCardDump

SYS = Path("/sys")
ROOT_COMPLEX = re.compile(r"^pci[0-9a-f]{4}:[0-9a-f]{2}$")
PCI_ADDRESS = re.compile(r"^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")

NUMA_NODE = re.compile(r"^node(\d{1,4})$")

MOST_CPUS = 8192
"""The kernel's NR_CPUS."""

NVIDIA = "0x10de"
CARD_CLASSES = ("0x0300", "0x0302")
"""VGA and 3D controllers. A card's audio and USB functions are separate devices."""

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


def numa_nodes(root: Path = SYS) -> tuple[NumaDump, ...]:
    """The host's NUMA nodes with the sockets of their CPUs. Empty if /sys does not list them."""
    folder = root / "devices" / "system"
    try:
        names = [match for entry in (folder / "node").iterdir() if (match := NUMA_NODE.match(entry.name))]
    except OSError:
        return ()
    indices = sorted(int(name[1]) for name in names)
    return tuple(NumaDump(index=index, sockets=_sockets(folder, index)) for index in indices)


def _sockets(folder: Path, node: int) -> tuple[int, ...] | None:
    cpus = _cpu_list(_read(folder / "node" / f"node{node}" / "cpulist"))
    if cpus is None:
        return None
    found = {_read(folder / "cpu" / f"cpu{cpu}" / "topology" / "physical_package_id") for cpu in cpus}
    known = {int(socket) for socket in found if socket and socket.isdigit()}
    # CPUs that are offline have no topology.
    return tuple(sorted(known)) if known or not cpus else None


def _cpu_list(text: str | None) -> list[int] | None:
    """Parse the kernel's form 0-3,8-11. Empty for a node without CPUs; None if it could not be read."""
    if text is None:
        return None
    try:
        spans = [[int(end) for end in span.split("-")] for span in text.split(",") if span]
    except ValueError:
        return None
    return [cpu for span in spans for cpu in range(span[0], min(span[-1], span[0] + MOST_CPUS) + 1)]


def other_cards(listed: Iterable[str], root: Path = SYS) -> tuple[OtherCardDump, ...]:
    """NVIDIA cards on the PCI bus whose addresses are not among those that NVML listed."""
    try:
        devices = sorted((root / "bus" / "pci" / "devices").iterdir())
    except OSError:
        return ()
    unlisted = [device for device in devices if device.name not in set(listed) and _is_card(device)]
    return tuple(OtherCardDump(bus=device.name, driver=_kernel_driver(device)) for device in unlisted)


def _is_card(device: Path) -> bool:
    return _read(device / "vendor") == NVIDIA and (_read(device / "class") or "").startswith(CARD_CLASSES)


def _kernel_driver(device: Path) -> str | None:
    driver = device / "driver"
    return Path(os.path.realpath(driver)).name if driver.is_symlink() else None


def loaded_driver(root: Path = SYS) -> str | None:
    """Version of the driver loaded into the kernel. None if there is none."""
    return _read(root / "module" / "nvidia" / "version")


def _numa_node(device: Path) -> int | None:
    text = _read(device / "numa_node")
    try:
        node = int(text or "-1")
    except ValueError:
        return None
    return node if node >= 0 else None


def _iommu(device: Path) -> Literal["off", "identity", "translated"] | None:
    """The IOMMU's mode. A device without a group is not behind an IOMMU."""
    group = device / "iommu_group"
    if not group.is_symlink() and not group.exists():
        return "off"
    return IOMMU_TYPES.get(_read(group / "type") or "")


def _acs(device: Path) -> Literal["off", "redirect"] | None:
    """Check the bridges between the card and its root complex. A bridge that cannot be read might redirect."""
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
