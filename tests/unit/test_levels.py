"""Every test has one level, and tests of level `check` start none of our programs and need no build."""

from pathlib import PurePosixPath

import pytest

from levels import BUILT, CHECKED, LEVELS, ROOT, level_of, pytest_ignore_collect


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
    with pytest.raises(ValueError, match=r"tests/a\.py: a test is of one level, and not of test and long"):
        level_of(PurePosixPath("tests/a.py"), {"long", "test"})


def test_a_mark_in_a_file_that_is_not_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tests/runtime/test_a\.py: mark no test of it as check"):
        level_of(PurePosixPath("tests/runtime/test_a.py"), {"check"})


@pytest.mark.parametrize(
    ("file", "marks", "ignored"),
    [
        ("tests/unit/core/test_plan.py", "check", None),
        ("tests/engine/test_launcher.py", "check", True),
        ("tests/engine/conftest.py", "check", None),
        ("tests/engine/test_launcher.py", "not long", None),
        ("tests/engine/test_launcher.py", "", None),
    ],
)
def test_only_files_with_checks_are_read_for_them(
    file: str, marks: str, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, *, ignored: bool | None
) -> None:
    monkeypatch.setattr(pytestconfig.option, "markexpr", marks)
    assert pytest_ignore_collect(ROOT / file, pytestconfig) is ignored


@pytest.mark.parametrize("place", CHECKED)
def test_the_table_names_existing_tests(place: str) -> None:
    assert (ROOT / place).exists()


@pytest.mark.parametrize("module", [place for place in CHECKED if place.endswith(".py")])
def test_a_module_of_the_table_starts_no_process(module: str) -> None:
    text = (ROOT / module).read_text()
    assert not [word for word in ("subprocess", "launcher_bench", "launcher: Launcher") if word in text]
