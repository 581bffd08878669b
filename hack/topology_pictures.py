"""Draws the pictures that the docs show and that tests compare with. Run by `scripts/generate`."""

import tempfile
from pathlib import Path

from fake_node.readings import read_machine
from flash_node.topology.drawing import svg_of
from flash_node.topology.text import text_of
from flash_node.topology.view import view_of

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ROOT / "tests" / "node" / "pictures"
DRAWINGS = ROOT / "docs" / "pictures"
SHOWN = ("max-q-four-translated", "ws-pair-node")


def pictures() -> dict[Path, str]:
    """The content of every file."""
    found = {}
    for name in SHOWN:
        with tempfile.TemporaryDirectory() as folder:
            view = view_of(read_machine(name, Path(folder)))
        found[TEXTS / f"{name}.txt"] = text_of(view)
        found[DRAWINGS / f"{name}.svg"] = svg_of(view)
    return found


if __name__ == "__main__":
    for file, content in pictures().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
