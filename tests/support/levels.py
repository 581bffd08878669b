"""pytest plugin that gives every test one level, by its folder or module and by what it needs.

`check` is for development, `test` for a finished change, and `long` for a release.
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
    "tests/documentation/test_argocd_health.py",
    "tests/documentation/test_marks.py",
    "tests/gpu_trial",
    "tests/images/test_push.py",
    # Decisions of the engine pod without processes, with the virtual clock where time matters.
    "tests/engine/test_evidence.py",
    "tests/engine/test_gate.py",
    "tests/engine/test_gate_config.py",
    "tests/engine/test_gate_faults.py",
    "tests/engine/test_gate_server.py",
    "tests/engine/test_log_tail.py",
    "tests/engine/test_exit_reason.py",
    "tests/engine/test_measurement.py",
    "tests/engine/test_sprt.py",
    "tests/engine/test_trial_store.py",
    "tests/engine/test_full_depth.py",
    "tests/engine/test_serving.py",
    "tests/engine/test_hang_detection.py",
    "tests/engine/test_serving_health.py",
    "tests/engine/test_verdict.py",
    "tests/engine/test_wrong_texts.py",
)
"""Folders and modules of level `check`; all others have level `test`. An explicit mark of another level wins."""

BUILT = frozenset({"apiserver", "images", "cluster"})
"""Marks of what must be built first: no test with one of them is of level `check`."""


def level_of(path: PurePosixPath, marks: AbstractSet[str]) -> str:
    """The level of a test in this file (a path from the root). Raises ValueError for several explicit marks."""
    by_hand = [level for level in LEVELS if level in marks]
    if "check" in by_hand and not has_checks(path):
        raise ValueError(
            f"{path}: mark no test of it as check, but name the file in CHECKED: `-m check` reads no other"
        )
    if len(by_hand) > 1:
        raise ValueError(f"{path}: a test is of one level, and not of {' and '.join(by_hand)}")
    if by_hand:
        return by_hand[0]
    return "check" if has_checks(path) and not marks & BUILT else "test"


def has_checks(path: PurePosixPath) -> bool:
    """Whether a file of tests (a path from the root) may have some of level `check`."""
    return any(path.is_relative_to(checked) for checked in CHECKED)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m check`, files without such a test are not imported: that costs each worker more than its own files."""
    if config.option.markexpr != "check" or not collection_path.match("test_*.py"):
        return None
    path = PurePosixPath(collection_path.relative_to(ROOT).as_posix())
    return None if has_checks(path) else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs before pytest selects by marks."""
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        level = level_of(PurePosixPath(item.path.relative_to(ROOT).as_posix()), marks)
        if level not in marks:
            item.add_marker(level)
