"""flash-labeller as a process: bad usage, signals, changed drivers, and clusters that it cannot reach."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_node.fake_sys import make_sys
from fake_node.machine import Machine
from fake_node.readings import read_machine
from flash_node.labeller.__main__ import main

KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "u", "user": {}}],
    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    "current-context": "x",
}


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(KUBECONFIG))
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.delenv("NODE_NAME", raising=False)


def labeller(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = (sys.executable, "-m", "flash_node.labeller", *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: --node"),
        (("--node=",), "'' is not a valid node name"),
        (("--node=a/b",), "'a/b' is not a valid node name"),
        (("--node=n", "--interval-seconds=soon"), "'soon' is not a number of seconds between 1 and 86400"),
        (("--node=n", "--interval-seconds=0"), "'0' is not a number of seconds between 1 and 86400"),
    ],
)
def test_bad_usage_is_reported_with_its_value(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs in this process, because usage is checked before anything else."""
    monkeypatch.setattr(sys, "argv", ["flash-labeller", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def running(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A labeller that has read once. The version of the kernel's driver is a file below tmp_path."""
    make_sys(Machine.load("ws-pair-node"), tmp_path / "sys")
    options = ("--node=n", "--interval-seconds=1", f"--sys-root={tmp_path / 'sys'}")
    command = (sys.executable, "-m", "flash_node.labeller", *options)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    assert any('"labels not published"' in line or "no card could be read" in line for line in process.stdout)
    yield process
    process.kill()
    process.communicate()


def test_it_exits_when_the_kernel_loads_another_driver(running: "subprocess.Popen[str]", tmp_path: Path) -> None:
    """Its driver library belongs to the previous driver; a restarted container gets the new one."""
    (tmp_path / "sys" / "module" / "nvidia" / "version").write_text("600.1\n")
    output, _ = running.communicate(timeout=30)
    last = json.loads(output.splitlines()[-1])
    assert (last["event"], last["before"], last["now"]) == (
        "exiting because the driver has changed",
        "595.58.03",
        "600.1",
    )
    assert (running.returncode, last["node"]) == (0, "n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_exits_on_a_signal(running: "subprocess.Popen[str]", number: signal.Signals) -> None:
    running.send_signal(number)
    running.communicate(timeout=10)
    assert running.returncode == 0


def test_a_bad_dump_ends_it_before_anything_is_labelled(tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    file.write_text(read_machine("ws-pair-node", tmp_path).to_text()[:200])
    ended = labeller("--node=n", "--once", f"--dump={file}")
    assert ended.returncode == 2
    (line,) = ended.stdout.splitlines()
    assert f"{file} is not a dump of flash-topology --save" in json.loads(line)["error"]


def test_every_line_of_its_log_names_its_node(tmp_path: Path) -> None:
    """The logs of a DaemonSet come from many nodes."""
    file = tmp_path / "node.json"
    file.write_text(read_machine("pair-bad-riser", tmp_path).to_text())
    ended = labeller("--node=gpu-7", "--once", f"--dump={file}")
    assert ended.returncode == 1
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {line["event"] for line in lines} == {"gpu links", "event not written", "labels not published"}
    assert {line["node"] for line in lines} == {"gpu-7"}
    assert lines[0]["warning"] == "BAR1 of GPU 1: Unknown Error"
