"""Diagrams are Mermaid in the pages, which code hosts draw. The site shows a picture of each, drawn beforehand.

A picture is named by its page and number, and says of which source it was drawn, so that a test finds an old one.
"""

import hashlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DIAGRAM = re.compile(r"^```mermaid\n(?P<source>.*?)^```\n", re.MULTILINE | re.DOTALL)
FOLDER = "docs/pictures/diagrams"


@dataclass(frozen=True)
class Diagram:
    """A diagram of a page."""

    picture: str
    """Its file, a path in the repository."""
    source: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    def is_drawn(self, svg: str) -> bool:
        """Whether this picture was drawn of this source."""
        return f"<!-- drawn of {self.digest} -->" in svg


def diagrams_of(page: Path, root: Path) -> Iterator[Diagram]:
    """The diagrams of one page."""
    for number, match in enumerate(DIAGRAM.finditer(page.read_text()), 1):
        name = str(page.relative_to(root).with_suffix("")).removeprefix("docs/").replace("/", "-")
        yield Diagram(f"{FOLDER}/{name.lower()}-{number}.svg", match["source"])


def with_pictures(markdown: str, source: str) -> str:
    """The page with a picture in place of each diagram. `source` is its path in the repository."""
    name = posixpath.splitext(source)[0].removeprefix("docs/").replace("/", "-").lower()
    depth = max(source.removeprefix("docs/").count("/"), 0)
    numbers = iter(range(1, 100))

    def picture(_match: re.Match[str]) -> str:
        link = f"{'../' * depth}pictures/diagrams/{name}-{next(numbers)}.svg"
        return f"[![Diagram: the text beside it says the same]({link}){{ .diagram }}]({link})\n"

    return DIAGRAM.sub(picture, markdown)
