"""pytest plugin: every test is of one level, which its folder or its module says, and what it needs.

`check` is for the time while one writes, `test` for what is handed in, `long` for what is released.
"""

from collections.abc import Set as AbstractSet
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEVELS = ("check", "test", "long")

CHECKED = (
    "tests/unit",
    "tests/contracts",
    "tests/hack",
    "tests/node",
    "tests/p2p_test",
    "tests/checkpoint",
    "tests/chart",
    "tests/tiny_model",
    "tests/gpu_trial",
    # Of the engine's pod what is decided, without a process: by the virtual clock where there is one.
    "tests/engine/test_evidence.py",
    "tests/engine/test_gate.py",
    "tests/engine/test_gate_config.py",
    "tests/engine/test_gate_faults.py",
    "tests/engine/test_gate_server.py",
    "tests/engine/test_log_tail.py",
    "tests/engine/test_exit_reason.py",
    "tests/engine/test_measurement.py",
    "tests/engine/test_sprt.py",
    "tests/engine/test_serving.py",
    "tests/engine/test_hang_detection.py",
    "tests/engine/test_serving_health.py",
    "tests/engine/test_verdict.py",
)
"""Folders and modules of level `check`; all others are of level `test`. A level that is marked by hand wins."""

BUILT = frozenset({"apiserver", "images", "cluster"})
"""Marks of what must be built first: no test with one of them is of level `check`."""


def level_of(path: PurePosixPath, marks: AbstractSet[str]) -> str:
    """Of a test in this file, which is named from the root. Raises ValueError where several are marked by hand."""
    by_hand = [level for level in LEVELS if level in marks]
    if len(by_hand) > 1:
        raise ValueError(f"{path}: a test is of one level, and not of {' and '.join(by_hand)}")
    if by_hand:
        return by_hand[0]
    is_checked = any(path.is_relative_to(checked) for checked in CHECKED)
    return "check" if is_checked and not marks & BUILT else "test"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before pytest selects by marks."""
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        level = level_of(PurePosixPath(item.path.relative_to(ROOT).as_posix()), marks)
        if level not in marks:
            item.add_marker(level)
