"""The launcher as a real process, with small real programs as its engine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAFE = {
    "version": 1,
    "row": "T8",
    "args": [{"value": "--disable-custom-all-reduce", "source": "fallback", "reason": "unknown links"}],
    "env": [{"name": "NCCL_P2P_DISABLE", "value": "1", "source": "fallback", "reason": "unknown links"}],
}
FAST = {
    "version": 1,
    "row": "T3",
    "args": [],
    "env": [{"name": "NCCL_P2P_LEVEL", "value": "PHB", "source": "probe", "reason": "verified"}],
    "unset": ["PYTORCH_CUDA_ALLOC_CONF"],
}

# Tells what it was started with, and ends as its first argument says.
TELL = """
import json, os, sys
names = ("NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "PYTORCH_CUDA_ALLOC_CONF")
print(json.dumps({"args": sys.argv[1:], "env": {name: os.environ.get(name) for name in names}}))
"""


class Launcher:
    """One launcher process and its folders."""

    def __init__(self, folder: Path) -> None:
        self.run_dir, self.node_dir = folder / "run", folder / "node"
        for made in (self.run_dir, self.node_dir):
            made.mkdir()
        self._folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def program(self, source: str) -> str:
        """An executable of this Python."""
        path = self._folder / "engine"
        path.write_text(f"#!{sys.executable}\n{source}")
        path.chmod(0o755)
        return str(path)

    def start(self, command: str, *arguments: str, patience: float = 30, fallback: Any = SAFE) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "FLASH_RUN_DIR": str(self.run_dir),
            "FLASH_NODE_DIR": str(self.node_dir),
            "FLASH_HAND_OVER_SECONDS": str(patience),
            "FLASH_FALLBACK_FLAGS": fallback if isinstance(fallback, str) else json.dumps(fallback),
            "FLASH_ENGINE_COMMAND": command,
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "flash_engine.launcher", *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    def hand_over(self, text: str) -> None:
        """As the kubelet does: a new folder, and a symlink that is swapped."""
        version = self.node_dir / f"..{time.monotonic_ns()}"
        version.mkdir()
        (version / "engine-flags").write_text(text)
        link = self.node_dir / "..data.new"
        link.symlink_to(version.name)
        link.replace(self.node_dir / "..data")
        visible = self.node_dir / "engine-flags"
        if not visible.is_symlink():
            visible.symlink_to("..data/engine-flags")

    def document(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run_dir / name).read_text())
        return found

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def launcher(tmp_path: Path) -> Any:
    made = Launcher(tmp_path)
    yield made
    made.end()


def wait_until(look: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def phase_is(launcher: Launcher, phase: str) -> Callable[[], bool]:
    def look() -> bool:
        path = launcher.run_dir / "engine.json"
        return path.exists() and json.loads(path.read_text())["phase"] == phase

    return look


def test_the_nodes_flags_reach_the_engine(launcher: Launcher) -> None:
    launcher.hand_over(json.dumps(FAST))
    out, _ = launcher.start(launcher.program(TELL), "serve", "/model").communicate()

    told = json.loads(out)
    assert told["args"] == ["serve", "/model"]
    assert told["env"] == {"NCCL_P2P_DISABLE": None, "NCCL_P2P_LEVEL": "PHB", "PYTORCH_CUDA_ALLOC_CONF": None}
    effective = launcher.document("effective.json")
    assert (effective["origin"], effective["flags"]["row"]) == ("annotation", "T3")


def test_flags_that_come_late_are_waited_for(launcher: Launcher) -> None:
    launcher.hand_over("")
    process = launcher.start(launcher.program(TELL), "serve", "/model")
    wait_until(phase_is(launcher, "WaitingForFlags"))
    launcher.hand_over(json.dumps(FAST))
    out, _ = process.communicate()

    assert json.loads(out)["env"]["NCCL_P2P_LEVEL"] == "PHB"
    assert launcher.document("effective.json")["origin"] == "annotation"


def test_without_flags_the_safe_set_is_taken_and_it_is_said(launcher: Launcher) -> None:
    out, err = launcher.start(launcher.program(TELL), "serve", "/model", patience=0.2).communicate()

    told = json.loads(out)
    assert told["args"] == ["serve", "/model", "--disable-custom-all-reduce"]
    assert told["env"]["NCCL_P2P_DISABLE"] == "1"
    effective = launcher.document("effective.json")
    assert effective["origin"] == "fallback"
    assert "is the operator running?" in effective["detail"]
    assert effective["waitedMillis"] >= 200
    assert "is the operator running?" in err


MALFORMED = {
    "half a document": '{"version": 1, "row": "T1", "args": [',
    "another version": json.dumps({**FAST, "version": 2}),
    "no arguments": '{"version": 1, "env": []}',
    "a number for a value": json.dumps({**FAST, "env": [{"name": "A", "value": 1}]}),
    "a list": "[]",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_flags_are_never_half_obeyed(launcher: Launcher, text: str) -> None:
    launcher.hand_over(text)
    out, _ = launcher.start(launcher.program(TELL), "serve").communicate()

    assert json.loads(out)["env"] == {
        "NCCL_P2P_DISABLE": "1",
        "NCCL_P2P_LEVEL": None,
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    effective = launcher.document("effective.json")
    assert effective["origin"] == "fallback"
    assert "could not be read" in effective["detail"]


def test_an_exit_code_is_passed_on_and_written_down(launcher: Launcher) -> None:
    program = launcher.program("import sys\nprint('ValueError: no MTP weights')\nsys.exit(3)")
    process = launcher.start(program, "serve", patience=0)
    process.communicate()

    assert process.returncode == 3
    record = launcher.document("engine.json")
    assert (record["phase"], record["exit"]["code"], record["exit"]["signal"]) == ("Exited", 3, None)
    assert record["exit"]["lastLines"] == ["ValueError: no MTP weights"]


def test_the_cause_is_kept_however_much_is_said_after_it(launcher: Launcher) -> None:
    program = launcher.program(
        "import sys\nprint('ValueError: the cause')\nfor n in range(500): print('noise', n)\nsys.exit(1)"
    )
    launcher.start(program, "serve", patience=0).communicate()

    lines = launcher.document("engine.json")["exit"]["lastLines"]
    assert lines[0] == "ValueError: the cause"
    assert lines[-1] == "noise 499"
    assert len(lines) < 60


def test_a_killed_engine_is_told_by_its_signal(launcher: Launcher) -> None:
    process = launcher.start(
        launcher.program("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"), "serve", patience=0
    )
    process.communicate()

    assert process.returncode == 128 + signal.SIGKILL
    assert launcher.document("engine.json")["exit"]["signal"] == "SIGKILL"


def test_starts_are_counted_and_the_last_exit_stays_visible(launcher: Launcher) -> None:
    program = launcher.program("import sys, time\nprint('Error: first')\nsys.exit(1)")
    launcher.start(program, "serve", patience=0).communicate()
    process = launcher.start(launcher.program("import time\ntime.sleep(60)"), "serve", patience=0)
    wait_until(phase_is(launcher, "Starting"))

    record = launcher.document("engine.json")
    assert (record["starts"], record["exit"]["code"]) == (2, 1)
    process.terminate()
    process.communicate()


POLITE = """
import signal, sys, time
def end(number, frame):
    print("ending", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(60)
"""


def test_sigterm_reaches_the_engine_which_ends_in_its_own_way(launcher: Launcher) -> None:
    process = launcher.start(launcher.program(POLITE), "serve", patience=0)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    out, _ = process.communicate(timeout=20)

    assert out == "ending\n"
    assert process.returncode == 0


def test_sigterm_while_waiting_for_flags_ends_at_once(launcher: Launcher) -> None:
    process = launcher.start(launcher.program(TELL), "serve", patience=600)
    wait_until(phase_is(launcher, "WaitingForFlags"))
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM


DEAF_WORKER = """
import os, signal, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"])
open(os.environ["FLASH_RUN_DIR"] + "/worker.pid", "w").write(str(worker.pid))
time.sleep(1)
sys.exit(5)
"""


def test_a_worker_that_outlives_the_engine_is_ended_with_its_group(launcher: Launcher) -> None:
    """A worker that stays keeps the GPU's memory, and the next engine runs out of it."""
    process = launcher.start(launcher.program(DEAF_WORKER), "serve", patience=0)
    process.communicate(timeout=40)

    worker = int((launcher.run_dir / "worker.pid").read_text())
    assert process.returncode == 5
    wait_until(lambda: not _is_alive(worker))


def _is_alive(pid: int) -> bool:
    """Alive, and not a zombie that waits for the init process of this machine."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_missing_engine_is_said_plainly(launcher: Launcher) -> None:
    process = launcher.start("no-such-engine", "serve", patience=0)
    _, err = process.communicate()

    assert process.returncode == 127
    assert "no-such-engine" in err
    record = launcher.document("engine.json")
    assert record["phase"] == "Exited"
    assert "no-such-engine" in record["exit"]["lastLines"][0]


def test_a_missing_setting_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flash_engine.launcher", "serve"],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "FLASH_NODE_DIR" in done.stderr


def test_an_unusable_fallback_is_refused_before_anything_starts(launcher: Launcher) -> None:
    process = launcher.start(launcher.program(TELL), "serve", patience=0, fallback="{}")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert "bad setting" in err


@pytest.mark.parametrize("module", ["flash_engine.launcher", "flash_engine.gate"])
def test_help_teaches(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert "FLASH_RUN_DIR" in done.stdout
