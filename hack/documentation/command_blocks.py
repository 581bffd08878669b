"""Blocks of commands in the pages, and the mark before each: which test runs it, or why none does.

    <!-- run-by: tests/FILE.py::TEST -->
    <!-- not run: REASON -->

`<!-- unless marked, not run: REASON -->` once in a page is for all its blocks without a mark. Comments show on no page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>(?:run-by|not run): .*?) -->\n)?"
    r"^ *```(?:sh|bash|shell|console)\n(?P<text>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)
OF_PAGE = re.compile(r"<!-- unless marked, (?P<mark>(?:run-by|not run): .*?) -->")


@dataclass(frozen=True)
class Block:
    """A block of commands."""

    page: str
    """Path in the repository."""
    line: int
    text: str
    run_by: str | None
    """FILE::TEST."""
    not_run: str | None
    """The reason."""

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Its commands without comments; those over several lines are one."""
        joined = self.text.replace("\\\n", " ")
        lines = [re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines()]
        return [" ".join(line.split()) for line in lines if line]


def pages() -> list[Path]:
    """Every page that may have commands."""
    charts = (ROOT / "charts").rglob("README.md")
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *charts])


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of one page."""
    text = page.read_text()
    of_page = OF_PAGE.search(text)
    for match in BLOCK.finditer(text):
        kind, _, value = (match["mark"] or (of_page["mark"] if of_page else "")).partition(": ")
        yield Block(
            page=str(page.relative_to(ROOT)),
            line=text.count("\n", 0, match.start("text")),
            text=match["text"],
            run_by=value if kind == "run-by" else None,
            not_run=value if kind == "not run" else None,
        )


def all_blocks() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in pages() for block in blocks_of(page)]


def blocks_run_by(test: str) -> list[Block]:
    """The blocks whose mark names this test: what the test has to run."""
    return [block for block in all_blocks() if block.run_by == test]
