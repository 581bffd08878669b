"""Every test has one level, and tests of level `check` start none of our programs and need no build."""

from pathlib import PurePosixPath

import pytest

from levels import BUILT, CHECKED, LEVELS, ROOT, level_of


def test_every_test_of_this_run_has_one_level(request: pytest.FixtureRequest) -> None:
    wrong = [item.nodeid for item in request.session.items if len(levels_of(item)) != 1]
    assert wrong == []


def test_no_check_test_needs_a_build(request: pytest.FixtureRequest) -> None:
    needing = [item for item in request.session.items if BUILT & {mark.name for mark in item.iter_markers()}]
    assert [item.nodeid for item in needing if levels_of(item) == ["check"]] == []


def levels_of(item: pytest.Item) -> list[str]:
    return sorted({mark.name for mark in item.iter_markers()}.intersection(LEVELS))


@pytest.mark.parametrize(
    ("path", "marks", "level"),
    [
        ("tests/unit/core/test_plan.py", set(), "check"),
        ("tests/engine/test_gate.py", {"asyncio"}, "check"),
        ("tests/engine/test_launcher.py", set(), "test"),
        ("tests/engine/test_gate_process.py", set(), "test"),
        ("tests/a_new_folder/test_a.py", set(), "test"),
        ("tests/unit/core/test_plan.py", {"apiserver"}, "test"),
        ("tests/unit/core/test_plan.py", {"long"}, "long"),
        ("tests/e2e/test_faults.py", {"cluster", "long"}, "long"),
    ],
)
def test_the_level_follows_from_place_and_needs_and_a_mark_by_hand_wins(path: str, marks: set[str], level: str) -> None:
    assert level_of(PurePosixPath(path), marks) == level


def test_two_levels_are_refused_with_the_file() -> None:
    with pytest.raises(ValueError, match=r"tests/a\.py: a test is of one level, and not of check and long"):
        level_of(PurePosixPath("tests/a.py"), {"long", "check"})


@pytest.mark.parametrize("place", CHECKED)
def test_the_table_names_existing_tests(place: str) -> None:
    assert (ROOT / place).exists()


@pytest.mark.parametrize("module", [place for place in CHECKED if place.endswith(".py")])
def test_a_module_of_the_table_starts_no_process(module: str) -> None:
    text = (ROOT / module).read_text()
    assert not [word for word in ("subprocess", "launcher_bench", "launcher: Launcher") if word in text]
