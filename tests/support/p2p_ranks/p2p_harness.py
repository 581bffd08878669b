"""The real command as a process of its own, with ranks that are fakes."""

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
"""Far longer than anything takes."""


@dataclass
class ProbeBench:
    """One run of flash-probe. `ways` are those of `fake_ranks`."""

    folder: Path
    ways: str
    options: tuple[str, ...] = ()
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.pids_folder.mkdir()
        ranks = [sys.executable, str(FAKE_RANKS), self.ways]
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
        """Its exit code, its report as it is, and as the operator reads it."""
        said, table = self.process.communicate(timeout=PATIENCE)
        assert said.strip() == self.report_file.read_text(), table
        return self.process.returncode, json.loads(said), P2pReport.of_text(said)

    def wait_for_ranks(self, count: int) -> None:
        eventually(lambda: len(self.pids) >= count, f"{count} ranks", seconds=PATIENCE, seen=lambda: self.pids)

    def alive(self) -> list[int]:
        """What the ranks have left; a zombie has ended, and waits for whoever should have waited for it."""
        return [pid for pid in self.pids if state_of(pid) not in {None, "Z", "X"}]


def state_of(pid: int) -> str | None:
    """Of one process, by proc(5)'s letter; None where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
