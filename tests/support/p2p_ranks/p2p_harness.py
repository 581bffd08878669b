"""Runs the real command in a process of its own, with fake ranks."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flash_contracts.p2p_report import P2pReport
from waiting import eventually

FAKE_RANKS = Path(__file__).with_name("fake_ranks.py")
PATIENCE = 20.0
"""Seconds. Far longer than any step takes."""


@dataclass
class P2pTestRun:
    """One run of flash-p2p-test. `behaviours` are those of `fake_ranks`."""

    folder: Path
    behaviours: str
    options: tuple[str, ...] = ()
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.pids_folder.mkdir()
        ranks = [sys.executable, str(FAKE_RANKS), self.behaviours]
        program = (
            f"import sys; from flash_engine.p2p_test.__main__ import main; sys.exit(main(sys.argv[1:], {ranks!r}))"
        )
        settings = ("--step-seconds=1.2", "--start-seconds=5", f"--report={self.report_file}", *self.options)
        self.process = subprocess.Popen(
            (sys.executable, "-c", program, *settings),
            env={**os.environ, "FAKE_RANK_PIDS": str(self.pids_folder), "TMPDIR": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def report_file(self) -> Path:
        return self.folder / "report.json"

    @property
    def pids_folder(self) -> Path:
        return self.folder / "pids"

    @property
    def pids(self) -> list[int]:
        return [int(file.name) for file in self.pids_folder.iterdir()]

    def ended(self) -> tuple[int, dict[str, Any], P2pReport]:
        """Wait for its end. Returns its exit code, its report, and the report as the operator reads it."""
        output, table = self.process.communicate(timeout=PATIENCE)
        assert output.strip() == self.report_file.read_text(), table
        return self.process.returncode, json.loads(output), P2pReport.of_text(output)

    def wait_for_ranks(self, count: int) -> None:
        eventually(lambda: len(self.pids) >= count, f"{count} ranks", seconds=PATIENCE, seen=lambda: self.pids)

    def alive(self) -> list[int]:
        """The processes that the ranks left behind. Zombies have ended and do not count."""
        return [pid for pid in self.pids if state_of(pid) not in {None, "Z", "X"}]


def state_of(pid: int) -> str | None:
    """State letter of a process (proc(5)). None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
