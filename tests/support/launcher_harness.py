"""A launcher under test as a real process, its folders, and small real programs as its engine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from waiting import eventually

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
    "env": [{"name": "NCCL_P2P_LEVEL", "value": "PHB", "source": "p2pTest", "reason": "verified"}],
    "unset": ["PYTORCH_CUDA_ALLOC_CONF"],
}

# Prints its arguments and environment.
TELL = """
import json, os, sys
names = ("NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "PYTORCH_CUDA_ALLOC_CONF")
print(json.dumps({"args": sys.argv[1:], "env": {name: os.environ.get(name) for name in names}}))
"""


# Orphans are inherited by PID 1, or by a process with PR_SET_CHILD_SUBREAPER (36), which survives an exec.
AS_FIRST_PROCESS = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(36, 1) == 0
os.execv(sys.executable, [sys.executable, "-m", "flash_engine.launcher", *sys.argv[1:]])
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

    def start(
        self,
        command: str,
        *arguments: str,
        patience: float = 30,
        fallback: Any = SAFE,
        first_process: str = AS_FIRST_PROCESS,
        **settings: str,
    ) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "KUBERNETES_SERVICE_HOST": "",
            "FLASH_RUN_DIR": str(self.run_dir),
            "FLASH_NODE_DIR": str(self.node_dir),
            "FLASH_HAND_OVER_SECONDS": str(patience),
            "FLASH_FALLBACK_FLAGS": fallback if isinstance(fallback, str) else json.dumps(fallback),
            "FLASH_ENGINE_COMMAND": command,
            "FLASH_TERMINATION_LOG": "",
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            **settings,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", first_process, *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    def pass_flags(self, text: str) -> None:
        """As the kubelet does: a new folder, and a symlink that is swapped."""
        version = self.node_dir / f"..{time.monotonic_ns()}"
        version.mkdir()
        (version / "engine-flags").write_text(text, errors="surrogateescape")
        link = self.node_dir / "..data.new"
        link.symlink_to(version.name)
        link.replace(self.node_dir / "..data")
        visible = self.node_dir / "engine-flags"
        if not visible.is_symlink():
            visible.symlink_to("..data/engine-flags")

    def _kill_engine(self) -> None:
        record = self.run_dir / "engine.json"
        pid = json.loads(record.read_text())["pid"] if record.exists() else None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def document(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run_dir / name).read_text())
        return found

    def end(self) -> None:
        """Leave no process behind: neither a launcher nor the group of its engine."""
        for process in self._started:
            if process.poll() is None:
                self._kill_engine()
                process.kill()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            process.wait()


def is_alive(pid: int) -> bool:
    """Alive, and not a zombie that waits for the init process of this machine."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False  # the second where it ends between the opening of the file and its reading


def wait_for_phase(launcher: Launcher, phase: str) -> None:
    def seen() -> Any:
        path = launcher.run_dir / "engine.json"
        return json.loads(path.read_text())["phase"] if path.exists() else None

    eventually(lambda: seen() == phase, f"the launcher's phase {phase}", seen=seen)
