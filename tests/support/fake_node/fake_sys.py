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
    for address, driver in machine.others.items():
        _make_other_card(address, driver, root)
    _make_numa_nodes(machine.sockets, root / "devices" / "system")
    module = root / "module" / "nvidia"
    module.mkdir(parents=True)
    (module / "version").write_text(f"{machine.driver}\n")
    return root


def _make_other_card(address: str, driver: str | None, root: Path) -> None:
    device = root / "bus" / "pci" / "devices" / address
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030000\n")
    if driver:
        (device / "driver").symlink_to(root / "bus" / "pci" / "drivers" / driver)


def _make_numa_nodes(sockets: dict[int, list[int]], system: Path) -> None:
    """The CPUs are numbered through."""
    first = 0
    for node, packages in sockets.items():
        cpus = range(first, first + len(packages))
        first += len(packages)
        folder = system / "node" / f"node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cpus[0]}-{cpus[-1]}\n" if cpus else "\n")
        for cpu, package in zip(cpus, packages, strict=True):
            topology = system / "cpu" / f"cpu{cpu}" / "topology"
            topology.mkdir(parents=True)
            (topology / "physical_package_id").write_text(f"{package}\n")


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
