"""Reads a described machine with the real code."""

from pathlib import Path

from fake_node.fake_nvml import FakeNvml
from fake_node.fake_sys import make_sys
from fake_node.machine import Machine
from flash_node.dump import NodeDump
from flash_node.reading import read_node

AT = "2026-11-24T12:00:00Z"


def read_machine(name: str, folder: Path) -> NodeDump:
    machine = Machine.load(name)
    dump = read_node(FakeNvml(machine), name, make_sys(machine, folder / "sys"))
    return dump.model_copy(update={"taken_at": AT})
