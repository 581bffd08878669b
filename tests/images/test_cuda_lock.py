"""The CUDA image cannot be built without its base, but its wheels can be resolved for its system."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "images/engine/requirements-cuda.lock"
UBUNTU_24_04 = ("3.12", "x86_64-manylinux_2_39")

pytestmark = pytest.mark.timeout(300)


def dry_run(target: Path, python: str, system: str, *lines: str) -> subprocess.CompletedProcess[str]:
    """What pip would do in the image, without fetching a wheel."""
    lock = target / "lock"
    lock.write_text("\n".join(lines) if lines else LOCK.read_text())
    return subprocess.run(
        [
            Path(sys.executable).with_name("uv"), "pip", "install", "--dry-run", "--no-deps", "--require-hashes",
            "--only-binary", ":all:", "-r", lock, "--target", target / "none",
            "--python-version", python, "--python-platform", system,
        ],
        check=False, capture_output=True, text=True,
    )  # fmt: skip


def test_every_pinned_package_is_there_as_a_wheel_for_the_images_system(tmp_path: Path) -> None:
    done = dry_run(tmp_path, *UBUNTU_24_04)
    assert done.returncode == 0, done.stderr[-2000:]
    assert " + vllm==0.33.0" in done.stderr


def test_the_dry_run_would_notice_a_wheel_that_is_not_there(tmp_path: Path) -> None:
    done = dry_run(tmp_path, UBUNTU_24_04[0], "aarch64-apple-darwin")
    assert done.returncode != 0
