"""scripts/setup installs into the project's own environment."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUB_UV = """#!/bin/sh
echo "$*" >> "$CALLS"
"""


def test_an_active_virtual_environment_is_left_alone(tmp_path: Path) -> None:
    """uv installs into VIRTUAL_ENV unless it is told where, and `sync` would remove what its owner has there."""
    for name in ("scripts/setup", "requirements/dev.lock", "hack/failure_reason.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(shutil.which("python3") or "python3")
    (programs / "uv").write_text(STUB_UV)
    (programs / "uv").chmod(0o755)
    environment = {**os.environ, "VIRTUAL_ENV": str(tmp_path / "theirs"), "CALLS": str(tmp_path / "calls")}

    done = subprocess.run(
        [str(tmp_path / "scripts/setup")], env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[:4] for call in calls] == [
        ["pip", "sync", "--python", ".venv/bin/python"],
        ["pip", "install", "--python", ".venv/bin/python"],
    ]
    assert (tmp_path / ".venv/.complete").exists()
