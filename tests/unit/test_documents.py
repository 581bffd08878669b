"""The documentation names only make targets, files and links that exist."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "hack").rglob("README.md")])
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
COMMITTED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
).stdout.splitlines()


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)", page.read_text()))
    prose = {"it", "them", "the", "anew", "what", "their"}
    assert named - prose <= TARGETS


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_linked_or_quoted_file_exists(page: Path) -> None:
    text = page.read_text()
    linked = [page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", re.sub(r"`[^`]*`", "", text))]
    quoted = [ROOT / path for path in re.findall(r"\b((?:examples|charts|scripts)/[\w./-]+\w)", text)]
    assert [str(path) for path in [*linked, *quoted] if not path.exists()] == []


def slugs(page: Path) -> set[str]:
    """The anchors that code hosts give to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_linked_heading_exists(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    linked = re.findall(r"\]\(([^)#:\s]*)#([^)\s]+)\)", text)
    there = [(page.parent / path if path else page, anchor) for path, anchor in linked]
    assert [f"{file}#{anchor}" for file, anchor in there if anchor not in slugs(file)] == []


HOW_TO = [page for page in PAGES if page.parent.name in ("docs", "measurements") and page.name != "glossary.md"]


@pytest.mark.parametrize("page", HOW_TO, ids=ids)
def test_every_page_links_the_glossary(page: Path) -> None:
    assert "glossary.md)" in page.read_text()


@pytest.mark.parametrize("page", ["architecture", "readiness", "topology"])
def test_a_page_begins_with_a_picture(page: str) -> None:
    before, picture, _ = (ROOT / "docs" / f"{page}.md").read_text().partition("```mermaid")
    assert picture
    assert len(before.splitlines()) <= 15


def test_every_target_is_explained() -> None:
    helped = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert TARGETS - {line.split()[0] for line in helped.splitlines()} <= {"help"} | {"setup"}


def test_the_operator_folder_is_no_package() -> None:
    """With an __init__.py it would shadow the standard library's `operator`, and pytest would die at its start."""
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not [path for path in COMMITTED if path.startswith("tests/") and path.endswith("__init__.py")]


def test_no_module_has_a_name_of_the_standard_library() -> None:
    forbidden = {"types", "queue", "resource", "signal", "platform", "select", "logging", "token"}
    names = {Path(path).stem for path in COMMITTED if path.endswith(".py")}
    assert not names & forbidden
