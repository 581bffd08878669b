"""Readings of NVML and /sys: each call may fail on its own, and its fault names the card."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from fake_node.fake_nvml import FakeNvml
from fake_node.fake_sys import acs_space, make_sys
from fake_node.machine import Machine
from fake_node.readings import read_machine
from flash_node.acs import redirects
from flash_node.dump import BadDumpError, NodeDump, NumaDump, OtherCardDump
from flash_node.nvml import Nvml, NvmlReader, pci_address
from flash_node.reading import load_nvml, read_node
from flash_node.sysfs import loaded_driver

DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, UNKNOWN_ERROR = 9, 12, 999
CALLS = [
    "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetName",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetBAR1MemoryInfo",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetMaxPcieLinkGeneration",
    "nvmlDeviceGetMaxPcieLinkWidth",
    "nvmlDeviceGetCurrPcieLinkWidth",
    "nvmlDeviceGetVirtualizationMode",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetTopologyCommonAncestor",
    "nvmlDeviceGetP2PStatus",
]


def machine(**changes: object) -> Machine:
    return replace(Machine.load("ws-pair-node"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", CALLS)
def test_a_failed_call_makes_only_its_own_value_unknown(call: str, tmp_path: Path) -> None:
    nvml = FakeNvml(machine(fails={"all": {call: UNKNOWN_ERROR}}))
    whole = read_node(FakeNvml(machine()), "n", tmp_path)
    dump = read_node(nvml, "n", tmp_path)
    assert dump.faults, "the failure is reported"
    assert all("Unknown Error" in fault for fault in dump.faults)
    assert len(dump.gpus) == 2
    assert nvml.initialised == 0, "NVML is shut down again"
    known = [getattr(dump.gpus[0], name) is not None for name in ("name", "memory", "bar1", "pcie_lanes")]
    assert sum(known) >= 3
    assert dump != whole


def test_an_unsupported_feature_is_not_a_fault() -> None:
    nvml = FakeNvml(machine(fails={"all": {"nvmlDeviceGetMigMode": 3}}))
    reader = NvmlReader(nvml)
    _, gpus, _ = reader.read()
    assert (reader.faults, gpus[0].mig) == ([], None)


@pytest.mark.parametrize("code", [DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND])
def test_a_node_without_a_driver_gives_an_empty_dump(code: int, tmp_path: Path) -> None:
    dump = read_node(FakeNvml(machine(fails={"all": {"nvmlInit": code}})), "n", tmp_path)
    assert dump.is_empty
    assert dump.faults == (f"NVML: {pynvml.NVMLError(code)}",)


def test_a_library_of_another_version_is_a_fault_and_not_an_exception(tmp_path: Path) -> None:
    class Older(FakeNvml):
        def nvmlDeviceGetBAR1MemoryInfo(self, _card: int) -> SimpleNamespace:  # noqa: N802
            return SimpleNamespace(total=1)

    dump = read_node(Older(machine()), "n", tmp_path)
    assert dump.gpus[0].bar1 is None
    assert "BAR1 of GPU 0: AttributeError" in dump.faults[0]


def test_the_real_pynvml_has_every_call_that_is_used() -> None:
    real = load_nvml()
    assert [name for name in dir(Nvml) if name.startswith("nvml") and not hasattr(real, name)] == []


def test_the_real_pynvml_without_a_driver_is_a_fault(tmp_path: Path) -> None:
    dump = read_node(load_nvml(), "n", tmp_path)
    if dump.gpus:
        pytest.skip("this machine has a GPU; the test is about machines without one")
    assert dump.faults
    assert dump.faults[0].startswith("NVML: ")


def test_a_lost_card_of_three_keeps_its_index(tmp_path: Path) -> None:
    three = machine(
        topology="\tGPU0\tGPU1\tGPU2\n" + "\n".join(f"GPU{n}\tNODE\tNODE\tNODE" for n in range(3)),
        numa=[0, 0, 0],
        buses=["00000000:01:00.0", "00000000:02:00.0", "00000000:03:00.0"],
        roots=["0000:00"] * 3,
        fails={1: {"nvmlDeviceGetHandleByIndex": 15}},
    )
    dump = read_node(FakeNvml(three), "n", make_sys(three, tmp_path))
    assert [(gpu.index, gpu.name is None) for gpu in dump.gpus] == [(0, False), (1, True), (2, False)]
    assert [(pair.first, pair.second, pair.ancestor) for pair in dump.pairs] == [(0, 1, None), (0, 2, 40), (1, 2, None)]


@pytest.mark.parametrize(
    ("bus", "expected"), [("00000000:F4:00.0", "0000:f4:00.0"), ("00010000:01:00.0", "10000:01:00.0")]
)
def test_an_address_has_the_form_of_sys(bus: str, expected: str) -> None:
    assert pci_address(bus) == expected


@pytest.mark.parametrize(
    ("control", "expected"), [(0, False), (0b0000001, False), (0b0000100, True), (0b0001000, True), (0b1011101, True)]
)
def test_a_bridge_that_redirects_requests_or_completions_is_detected(control: int, *, expected: bool) -> None:
    assert redirects(acs_space(control)) is expected


def test_acs_is_found_behind_other_capabilities() -> None:
    another = (0x120 << 20 | 0x0001_0001).to_bytes(4, "little")
    assert redirects(acs_space(0b1100, at=0x120, before=another)) is True


@pytest.mark.parametrize("config", [b"", bytes(64), bytes(256)])
def test_a_truncated_configuration_space_is_unknown(config: bytes) -> None:
    assert redirects(config) is None


def test_a_circular_list_of_capabilities_ends() -> None:
    circle = (0x100 << 20 | 0x0001_0001).to_bytes(4, "little")
    space = bytearray(4096)
    space[0x100:0x104] = circle
    assert redirects(bytes(space)) is False


def test_a_card_that_sys_does_not_list_keeps_its_nvml_readings(tmp_path: Path) -> None:
    dump = read_node(FakeNvml(machine()), "n", tmp_path)
    assert (dump.gpus[0].numa_node, dump.gpus[0].iommu, dump.gpus[0].memory) == (None, None, 97887 << 20)


@pytest.mark.parametrize("text", ["", "-1", "rubbish"])
def test_a_numa_node_that_the_firmware_does_not_provide_is_unknown(text: str, tmp_path: Path) -> None:
    described = machine()
    root = make_sys(described, tmp_path)
    (root / "bus/pci/devices/0000:01:00.0/numa_node").write_text(text)
    assert read_node(FakeNvml(described), "n", root).gpus[0].numa_node is None


def test_numa_nodes_are_read_with_the_sockets_of_their_cpus(tmp_path: Path) -> None:
    described = machine(sockets={0: [0, 0], 1: [0], 2: [1, 1], 8: []})
    dump = read_node(FakeNvml(described), "n", make_sys(described, tmp_path))
    assert [(node.index, node.sockets) for node in dump.numa] == [(0, (0,)), (1, (0,)), (2, (1,)), (8, ())]


@pytest.mark.parametrize("text", ["rubbish", "0-", "3-x", "1,,y", "0-99999999999"])
def test_a_list_of_cpus_that_cannot_be_read_says_nothing_of_sockets(text: str, tmp_path: Path) -> None:
    described = machine(sockets={0: []})
    root = make_sys(described, tmp_path)
    (root / "devices/system/node/node0/cpulist").write_text(text)
    assert read_node(FakeNvml(described), "n", root).numa == (NumaDump(index=0, sockets=None),)


def test_cards_that_nvml_does_not_list_are_found_on_the_bus(tmp_path: Path) -> None:
    described = machine(others={"0000:a1:00.0": "vfio-pci", "0000:a2:00.0": None})
    root = make_sys(described, tmp_path)
    audio = root / "bus/pci/devices/0000:a1:00.1"
    audio.mkdir()
    (audio / "vendor").write_text("0x10de\n")
    (audio / "class").write_text("0x040300\n")
    found = read_node(FakeNvml(described), "n", root).other_cards
    assert found == (OtherCardDump(bus="0000:a1:00.0", driver="vfio-pci"), OtherCardDump(bus="0000:a2:00.0"))


def test_the_kernel_tells_the_driver_where_nvml_does_not_answer(tmp_path: Path) -> None:
    described = machine(fails={"all": {"nvmlInit": DRIVER_NOT_LOADED}})
    assert read_node(FakeNvml(described), "n", make_sys(described, tmp_path)).driver == "595.58.03"


def test_the_loaded_driver_is_read_without_a_driver_call(tmp_path: Path) -> None:
    assert loaded_driver(tmp_path) is None
    assert loaded_driver(make_sys(machine(), tmp_path)) == "595.58.03"


def test_a_saved_dump_loads_unchanged(tmp_path: Path) -> None:
    dump = read_machine("max-q-four-translated", tmp_path)
    file = tmp_path / "node.json"
    file.write_text(dump.to_text())
    assert NodeDump.load(file) == dump


def dump_text(cards: tuple[int, ...], pairs: list[tuple[int, int]]) -> str:
    """The text of a dump that somebody may have edited."""
    gpus = [{"index": card} for card in cards]
    document = {"node": "a", "takenAt": "", "gpus": gpus, "pairs": [{"first": a, "second": b} for a, b in pairs]}
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty; take a dump on the node itself"),
        ("[]", "the document: Input should be an object"),
        ("{}", "node: Field required, and 1 more"),
        ('{"node": "a", "takenAt": "", "version": 2}', "version: this flash-topology reads version 1, not 2"),
        ('{"node": "a", "takenAt": "", "speed": 9}', "speed: not a key of a dump: it is misspelt, or a newer"),
        (dump_text((0, 0), []), "the document: two cards have the same index"),
        (dump_text((0, 1), [(0, 7)]), r"the document: a pair has the cards \[0, 7\], but the cards are"),
        (dump_text((0, 1), [(0, 0)]), r"the document: a pair has the cards \[0\]"),
        (dump_text((0, 1), [(0, 1), (1, 0)]), "the document: two pairs have the same cards"),
        (dump_text((0, -1), []), "gpus.1.index: Input should be greater than or equal to 0"),
    ],
)
def test_a_bad_dump_is_reported_with_its_fault(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    file.write_text(text)
    with pytest.raises(BadDumpError, match=f"{file} is not a dump of flash-topology --save: {message}"):
        NodeDump.load(file)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BadDumpError, match=r"nothing\.json: No such file"):
        NodeDump.load(tmp_path / "nothing.json")
