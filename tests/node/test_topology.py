"""flash-topology: the picture of a described machine as text and as SVG, and the command itself."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from fake_node.machine import names
from fake_node.readings import read_machine
from flash_node.dump import GpuDump, NodeDump, PairDump
from flash_node.labels import NodeState
from flash_node.topology.__main__ import main, with_node
from flash_node.topology.drawing import BAD, DOUBTFUL, GOOD, svg_of
from flash_node.topology.text import text_of
from flash_node.topology.view import view_of
from topology_pictures import pictures

SVG = "{http://www.w3.org/2000/svg}"
P = "deepseekflash.dev/"

Topology = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Topology:
    """Runs the command in this process, so that an exception fails the test."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        try:
            code = main(arguments)
        except SystemExit as ended:  # raised by argparse
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, captured.out, captured.err)

    return run


@pytest.fixture
def started(tmp_path: Path) -> Topology:
    """Runs the command in a process of its own."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = (sys.executable, "-m", "flash_node.topology", *arguments)
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)

    return run


def saved(name: str, folder: Path) -> Path:
    file = folder / f"{name}.json"
    file.write_text(read_machine(name, folder).to_text())
    return file


def texts_of(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - our own


PICTURES = pictures()


@pytest.mark.parametrize("file", PICTURES, ids=lambda file: file.name)
def test_the_pictures_match_the_reviewed_files(file: Path) -> None:
    """After an intended change, run scripts/generate and review the new pictures."""
    assert file.read_text() == PICTURES[file]


@pytest.mark.parametrize("name", names())
def test_every_picture_contains_all_labels_and_flags(name: str, tmp_path: Path) -> None:
    view = view_of(read_machine(name, tmp_path))
    texts, text = texts_of(svg_of(view)), text_of(view, width=400)
    for label, value in view.labels.items():
        assert label in texts
        assert value in texts
        assert label in text
    for argument in view.flags.args:
        assert argument.value in texts
        assert f"{argument.source}" in text
        assert argument.reason in text
    for variable in view.flags.env:
        assert f"{variable.name}={variable.value}" in texts
        assert f"{variable.name}={variable.value}" in text
    for warning in view.warnings:
        assert f"! {warning}" in " ".join(texts)
        assert warning in " ".join(text.split())


LETTER_WIDTHS = {"b": 7.5, "b m": 7.5, "s": 6.2, None: 7.0}
"""Width of an average letter in DejaVu Sans, which is wider than most fonts used for system-ui."""


@pytest.mark.parametrize("assumed", [None, "verified", "unknown"])
@pytest.mark.parametrize("name", names())
def test_no_text_overlaps_another_or_leaves_the_picture(name: str, assumed: str | None, tmp_path: Path) -> None:
    root = ET.fromstring(svg_of(view_of(read_machine(name, tmp_path), assumed)))  # noqa: S314 - our own
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for text in root.iter(f"{SVG}text"):
        content, left = text.text or "", float(text.get("x", "0"))
        width = len(content) * LETTER_WIDTHS[text.get("class")]
        begin = left - width / 2 if text.get("class") == "b m" else left
        lines.setdefault(text.get("y", ""), []).append((begin, begin + width, content))
    for found in lines.values():
        ends = [0.0, *(end for _, end, _ in sorted(found))]
        assert all(begin >= before for (begin, _, _), before in zip(sorted(found), ends, strict=False)), found
        assert ends[-1] <= float(root.get("width", "0")), found


@pytest.mark.parametrize(("assumed", "colour"), [("verified", GOOD), (None, DOUBTFUL), ("hang", BAD), ("corrupt", BAD)])
def test_a_link_has_the_colour_of_its_verdict(assumed: str | None, colour: str, tmp_path: Path) -> None:
    svg = svg_of(view_of(read_machine("ws-pair-node", tmp_path), assumed))
    (path,) = ET.fromstring(svg).iter(f"{SVG}path")  # noqa: S314 - our own
    assert path.get("stroke") == colour


def test_mig_slices_are_shown_as_refused(tmp_path: Path) -> None:
    view = view_of(read_machine("mig-on", tmp_path))
    assert view.pair_text(view.dump.pairs[0]) == "pix, ns"


def test_flags_follow_from_the_verdict_and_the_times_on_the_node(tmp_path: Path) -> None:
    micros = '{"8192":9,"16384":9,"65536":9,"262144":9}'
    slow = '{"8192":90,"16384":90,"65536":90,"262144":90}'
    variants = (
        f'{{"arm":"ncclP2p","outcome":"healthy","micros":{micros}}},'
        f'{{"arm":"peer","kernel":"vllm","outcome":"healthy","micros":{slow}}}'
    )
    report = f'{{"verdict":"healthy","arms":[{variants}]}}'
    labels = {f"{P}gpu-p2p": "verified", f"{P}gpu-p2p-driver": "595.58.03"}
    annotations = {f"{P}gpu-p2p-report": report, "kubectl.kubernetes.io/last-applied-configuration": "{}"}
    state = NodeState({**labels, "kubernetes.io/hostname": "secret"}, annotations, "7")

    dump = with_node(read_machine("ws-pair-node", tmp_path), state)

    assert "secret" not in dump.to_text()
    view = view_of(dump)
    assert view.flags.row == "T3"
    reasons = {argument.value: argument.reason for argument in view.flags.args}
    assert "measured: custom all-reduce 360 us, NCCL 36 us" in reasons["--disable-custom-all-reduce"]
    stale = dump.model_copy(update={"driver": "600.1"})
    assert view_of(stale).flags.row == "T5"


def test_labels_that_an_administrator_manages_are_shown_unchanged(tmp_path: Path) -> None:
    kept = {f"{P}labels-managed": "false", f"{P}gpu-link": "phb", f"{P}gpu-p2p": "verified"}
    view = view_of(read_machine("geforce-pair", tmp_path).model_copy(update={"node_labels": kept}))
    assert view.labels == {"labels-managed": "false", "gpu-link": "phb", "gpu-p2p": "verified"}
    assert view.flags.row == "T3"


def test_an_invalid_label_of_an_administrator_gives_a_warning(tmp_path: Path) -> None:
    kept = {f"{P}labels-managed": "false", f"{P}gpu-link": "warp"}
    view = view_of(read_machine("ws-pair-node", tmp_path).model_copy(update={"node_labels": kept}))
    assert any("gpu-link='warp' is not one of" in warning for warning in view.warnings)


def test_names_with_characters_that_xml_does_not_allow_are_drawn() -> None:
    gpus = (GpuDump(index=0, bus="\x00\x1b[31m<&>"), GpuDump(index=1))
    svg = svg_of(view_of(NodeDump(node="</text>\x07", taken_at="", gpus=gpus, pairs=(PairDump(first=0, second=1),))))
    assert "node </text>?, driver unknown" in texts_of(svg)


def test_a_saved_dump_is_shown_drawn_and_saved_again(topology: Topology, tmp_path: Path) -> None:
    dump = saved("ws-pair-node", tmp_path)
    shown = topology(f"--dump={dump}", "--svg=node.svg", "--save=again.json", "--assume=verified")
    assert (shown.returncode, shown.stderr.splitlines()) == (
        0,
        ["flash-topology: wrote again.json", "flash-topology: wrote node.svg"],
    )
    assert "NCCL_P2P_LEVEL=PHB" in shown.stdout
    assert "(gpu-p2p=verified is assumed)" in shown.stdout
    assert (tmp_path / "again.json").read_text() == dump.read_text()
    assert ET.parse(tmp_path / "node.svg").getroot().tag == f"{SVG}svg"  # noqa: S314 - our own


def test_a_machine_without_a_gpu_has_an_exit_code_of_its_own(started: Topology) -> None:
    shown = started("--sys-root=/nowhere")
    if "GPU 0" in shown.stdout:
        pytest.skip("this machine has a GPU; the test is about machines without one")
    assert shown.returncode == 1
    assert "no GPU was found" in shown.stdout
    assert "row T8" in shown.stdout
    assert "a p2p test verdict on the Node is not shown" in shown.stderr


def test_without_a_reachable_cluster_the_machine_is_still_shown(topology: Topology) -> None:
    shown = topology("--node=gpu-1")
    assert shown.returncode in (0, 1)
    assert "cannot connect to a cluster" in shown.stderr
    assert "node gpu-1" in shown.stdout


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"[", b"{}", b"clusters: 7\ncurrent-context: x\n", b"\t"])
def test_with_an_invalid_kubeconfig_the_machine_is_still_shown(
    content: bytes, topology: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kubeconfig"
    file.write_bytes(content)
    monkeypatch.setenv("KUBECONFIG", str(file))
    shown = topology("--node=gpu-1")
    assert "cannot connect to a cluster" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert "node gpu-1" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dump=nothing.json",), "nothing.json: No such file or directory"),
        (("--dump=/dev/null",), "/dev/null is not a dump of flash-topology --save"),
        (("--svg=/nowhere/node.svg",), "cannot write /nowhere/node.svg: No such file or directory"),
        (("--assume=fast",), "invalid choice: 'fast'"),
        (("--dump=a", "--node=b"), "not allowed with argument"),
        (("--dump=/",), "/: Is a directory"),
        (("--svg=/",), "cannot write /: Is a directory"),
        (("--save=/dev/full",), "cannot write /dev/full: No space left on device"),
        (("--node=",), "'' is not a valid node name"),
        (("--node=../pods",), "'../pods' is not a valid node name"),
    ],
)
def test_bad_usage_is_reported_with_the_file_or_the_value(
    topology: Topology, arguments: tuple[str, ...], message: str
) -> None:
    shown = topology(*arguments)
    assert shown.returncode == 2
    assert message in shown.stderr
    assert "Traceback" not in shown.stderr


def test_help_has_examples_and_exit_codes(started: Topology) -> None:
    shown = started("--help")
    assert shown.returncode == 0
    for text in ("examples:", "--assume verified", "exit codes: 0 shown"):
        assert text in shown.stdout
