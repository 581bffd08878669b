"""Creates a /sys of plain files: the PCI devices of a described machine, each below a bridge and a root complex."""

import struct
from pathlib import Path

from fake_node.machine import Machine
from flash_node.nvml import pci_address

PLAIN = bytes(64)
"""The part of a configuration space that the kernel shows to any user."""


def make_sys(machine: Machine, root: Path) -> Path:
    for card, bus in enumerate(machine.buses):
        _make_card(machine, card, pci_address(bus), root)
    module = root / "module" / "nvidia"
    module.mkdir(parents=True)
    (module / "version").write_text(f"{machine.driver}\n")
    return root


def acs_space(control: int, at: int = 0x100, before: bytes = b"") -> bytes:
    """A configuration space of 4096 bytes with this control register in its ACS capability."""
    space = bytearray(4096)
    space[0x100 : 0x100 + len(before)] = before
    struct.pack_into("<IHH", space, at, 0x0001_000D, 0, control)
    return bytes(space)


def _make_card(machine: Machine, card: int, address: str, root: Path) -> None:
    complex_ = machine.roots[card]
    bridge = root / "devices" / f"pci{complex_}" / f"{complex_}:{card + 1:02x}.1"
    device = bridge / address
    device.mkdir(parents=True)
    (bridge / "config").write_bytes(_space(machine.acs))
    (device / "numa_node").write_text(f"{machine.numa_nodes[card]}\n")
    if machine.iommu:
        group = root / "kernel" / "iommu_groups" / str(card)
        group.mkdir(parents=True)
        (group / "type").write_text(f"{machine.iommu}\n")
        (device / "iommu_group").symlink_to(group)
    link = root / "bus" / "pci" / "devices" / address
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(device)


def _space(acs: str | None) -> bytes:
    return PLAIN if acs is None else acs_space(0b1100 if acs == "redirect" else 0)
