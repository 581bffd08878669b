"""A described machine, read by the real code."""

from pathlib import Path

from flash_node.dump import NodeDump
from flash_node.reading import read_node
from node.fake_nvml import FakeNvml
from node.fake_sys import make_sys
from node.machine import Machine

AT = "2026-11-24T12:00:00Z"


def read_machine(name: str, folder: Path) -> NodeDump:
    machine = Machine.load(name)
    dump = read_node(FakeNvml(machine), name, make_sys(machine, folder / "sys"))
    return dump.model_copy(update={"taken_at": AT})
