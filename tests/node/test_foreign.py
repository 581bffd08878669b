"""Files attached in place of a dump: the message names what they are, and how to save a dump."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_node.readings import read_machine
from flash_node.dump import BadDumpError, NodeDump
from flash_node.foreign import foreign_format
from flash_node.topology.__main__ import main

PLAIN = """
\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID
GPU0\t X \tNODE\t0-15\t0\t\tN/A
GPU1\tNODE\t X \t0-15\t0\t\tN/A
"""
NICS = """
        GPU0    GPU1    NIC0    mlx5_1
GPU0     X      NV18    PXB     SYS
GPU1    NV18     X      SYS     PXB
NIC0    PXB     SYS      X      SYS
"""
COLOURED = "\x1b[4m\tGPU0\tGPU1\tCPU Affinity\x1b[0m\nGPU0\t X \tPIX\t0-7\nGPU1\tPIX\t X \t0-7\n"
P2P = " \tGPU0\tGPU1\t\n GPU0\tX\tCNS\t\n GPU1\tCNS\tX\t\n\nLegend:\n\n  X    = Self\n  OK   = Status Ok\n"
ROWS = "GPU0\t X \tSYS\tSYS\t0-7\t0\nGPU1\tSYS\t X \tPHB\t8-15\t1\nGPU2\tSYS\tPHB\t X \t8-15\t1\n"
TABLE = "+--------+\n| NVIDIA-SMI 595.58.03    Driver Version: 595.58.03   CUDA Version: 13.2 |\n"

FOREIGN = {
    "topo -m": (PLAIN, "the output of `nvidia-smi topo`"),
    "topo -m with network cards": (NICS, "the output of `nvidia-smi topo`"),
    "topo -m in colours": (COLOURED, "the output of `nvidia-smi topo`"),
    "topo -m without its header": (ROWS, "the output of `nvidia-smi topo`"),
    "topo -m after a prompt": (f"user@host:~$ nvidia-smi topo -m\n{PLAIN}", "the output of `nvidia-smi topo`"),
    "topo -p2p r": (P2P, "the output of `nvidia-smi topo`"),
    "nvidia-smi": (TABLE, "the output of `nvidia-smi`"),
    "nvidia-smi -q": ("\n==============NVSMI LOG==============\n\nTimestamp : x\n", "the output of `nvidia-smi -q`"),
    "nvidia-smi -q -x": ('<?xml version="1.0" ?>\n<nvidia_smi_log>\n</nvidia_smi_log>', "`nvidia-smi -q -x`"),
    "nvidia-smi -L": ("GPU 0: NVIDIA X (UUID: GPU-0)\nGPU 1: NVIDIA X (UUID: GPU-1)\n", "`nvidia-smi -L`"),
    "nvidia-smi --query-gpu": ("index, name, pci.bus_id\n0, NVIDIA X, 00000000:01:00.0\n", "`nvidia-smi --query-gpu`"),
    "lstopo": ('<?xml version="1.0"?>\n<!DOCTYPE topology SYSTEM "hwloc2.dtd">\n<topology version="2.0">', "lstopo"),
    "lstopo for people": ("Machine (252GB total)\n  Package L#0\n    NUMANode L#0 (P#0 252GB)\n", "lstopo"),
    "NCCL's topology": ('<system version="1">\n  <cpu numaid="0">\n', "a topology or graph of NCCL"),
    "lspci": ("01:00.0 VGA compatible controller: NVIDIA Corporation Device 2bb1 (rev a1)\n", "output of lspci"),
    "numactl": ("available: 4 nodes (0-3)\nnode 0 cpus: 0 1\n", "`numactl --hardware`"),
    "lscpu": ("Architecture:            x86_64\n  CPU op-mode(s): 32-bit, 64-bit\n", "the output of lscpu"),
    "amd-smi": ("==== ROCm System Management Interface ====\n", "a topology of AMD GPUs"),
    "rocm-smi": ("== Weight between two GPUs ==\n       GPU0  GPU1\nGPU0   0     40\n", "a topology of AMD GPUs"),
    "a Node as YAML": ("apiVersion: v1\nkind: Node\nmetadata:\n  name: a\n", "an object of Kubernetes"),
    "a Node as JSON": ('{"apiVersion": "v1", "kind": "Node", "metadata": {}}', "an object of Kubernetes (Node)"),
    "a described Node": ("Name:               gpu-1\nRoles:  <none>\nLabels:             a=b\n", "`kubectl describe`"),
    "a report of the p2p test": ('{"verdict": "healthy", "arms": []}', "the report of a p2p test"),
    "JSON of another tool": ('{"blockdevices": [], "more": 1}', "JSON of another tool, with the keys 'blockdevices'"),
    "our messages": ("flash-topology: no node name is given\n", "a message of flash-topology"),
    "a picture of ours": ('<svg xmlns="http://www.w3.org/2000/svg" />', "a picture that `flash-topology --svg` drew"),
    "nothing": ("", "it is empty"),
    "blank lines": (" \n\n\t", "it is empty"),
    "prose": ("my two cards do not talk to each other", "it is text, not JSON"),
    "a web page": ("<!DOCTYPE html><html><body>404</body></html>", "XML or HTML of another tool"),
    "a typing error": ('{"node": "a", "takenAt": "", "gpus": [}', "it is not valid JSON"),
}  # fmt: skip


def refusal(content: bytes, folder: Path) -> str:
    file = folder / "attached"
    file.write_bytes(content)
    with pytest.raises(BadDumpError) as caught:
        NodeDump.load(file)
    return str(caught.value)


@pytest.mark.parametrize(("content", "expected"), FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_file_is_named_with_the_command_that_saves_a_dump(
    content: str, expected: str, tmp_path: Path
) -> None:
    found = refusal(content.encode(), tmp_path)
    assert f"{expected}" in found.partition("--save: ")[2].partition("take a dump")[0]
    assert "`flash-topology --save FILE`" in found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (gzip.compress(b"x", mtime=0), "a gzip archive"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x89PNG\r\n", "a picture"),
        (bytes(200), "it is not text"),
        (b"\xff\xfe" + PLAIN.encode("utf-16-le"), "the output of `nvidia-smi topo`"),
    ],
    ids=["gzip", "zip", "picture", "zeros", "UTF-16"],
)
def test_a_binary_file_is_named(content: bytes, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(content, tmp_path)


def test_a_dump_truncated_anywhere_is_reported_as_truncated(tmp_path: Path) -> None:
    text = read_machine("ws-pair-node", tmp_path).to_text().rstrip()
    found = {foreign_format(text[:end].encode()) for end in range(1, len(text))}
    assert found == {"it is truncated: copy the whole of it"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "\nnode a, driver 595.58.03\n", "other text follows the JSON"),
        ("", "{}", "other text follows the JSON"),
        ("flash-topology: no node name is given\n", "", "other text precedes the dump"),
    ],
)
def test_a_dump_among_other_text_is_distinguished_from_another_file(
    before: str, after: str, expected: str, tmp_path: Path
) -> None:
    text = read_machine("ws-pair-node", tmp_path).to_text()
    assert f"{expected}" in refusal(f"{before}{text}{after}".encode(), tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_dump_as_other_systems_save_text_is_read(encoding: str, tmp_path: Path) -> None:
    dump = read_machine("ws-pair-node", tmp_path)
    file = tmp_path / "node.json"
    file.write_bytes(dump.to_text().encode(encoding))
    assert NodeDump.load(file) == dump


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": -1},
        {"memory": 10**400},
        {"index": 10**30},
        {"powerLimit": -5},
        {"numaNode": 10**9},
        {"pcieLanes": "x16"},
    ],
)
def test_impossible_numbers_are_rejected_by_name(changes: dict[str, object], tmp_path: Path) -> None:
    document = {"node": "a", "takenAt": "", "gpus": [{"index": 0, **changes}]}
    assert f"gpus.0.{next(iter(changes))}: " in refusal(json.dumps(document).encode(), tmp_path)


def test_a_numa_node_of_minus_one_is_unknown(tmp_path: Path) -> None:
    """/sys has this value if the firmware does not report the node."""
    file = tmp_path / "node.json"
    file.write_text('{"node": "a", "takenAt": "", "gpus": [{"index": 0, "numaNode": -1}]}')
    assert NodeDump.load(file).gpus[0].numa_node is None


def test_a_dump_alone_can_be_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = read_machine("ws-pair-node", tmp_path)
    file = tmp_path / "node.json"
    file.write_text(dump.to_text())
    assert main([f"--dump={file}", "--save=-"]) == 0
    assert capsys.readouterr().out == dump.to_text()


@settings(max_examples=50)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_file_gives_a_message_and_no_exception(content: bytes) -> None:
    found = foreign_format(content)
    assert found is None or found.startswith(("it ", "other text "))
