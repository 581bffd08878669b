"""Draws the diagrams of the pages: `python hack/documentation/draw_diagrams.py MERMAID_JS`.

MERMAID_JS is `dist/mermaid.min.js` of the npm package mermaid. It runs in a headless Chromium, which must be on PATH.
Only whoever changes a diagram needs either.
"""

import html
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hack"))

from documentation.diagrams import Diagram, diagrams_of  # noqa: E402 - run by path

SETTINGS = {
    "startOnLoad": False,
    "htmlLabels": False,
    "flowchart": {"htmlLabels": False, "wrappingWidth": 260},
    "theme": "neutral",
    "fontFamily": "sans-serif",
    "deterministicIds": True,
}
PAGE = """<!doctype html><meta charset="utf-8"><body><script src="file://{script}"></script><script>
mermaid.initialize({settings});
mermaid.render("diagram", {source}).then(done => {{
  const made = document.createElement("pre");
  made.id = "made";
  made.textContent = done.svg;
  document.body.replaceChildren(made);
}});
</script>"""
MILLISECONDS = 20_000


def main(arguments: Sequence[str]) -> None:
    """Draw what is missing or old."""
    script = Path(arguments[0]).resolve()
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for diagram in diagrams_of(page, ROOT):
            file = ROOT / diagram.picture
            if file.exists() and diagram.is_drawn(file.read_text()):
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(drawn(diagram, script))
            print(diagram.picture)


def drawn(diagram: Diagram, script: Path) -> str:
    """The picture, on white, so that it can be read on dark pages too."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "diagram.html"
        page.write_text(PAGE.format(script=script, settings=json.dumps(SETTINGS), source=json.dumps(diagram.source)))
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        browser += [
            f"--virtual-time-budget={MILLISECONDS}",
            "--allow-file-access-from-files",
            f"--user-data-dir={folder}/user",
        ]
        text = subprocess.run([*browser, f"file://{page}"], check=True, capture_output=True, text=True).stdout
    made = re.search(r'<pre id="made">(.*?)</pre>', text, re.DOTALL)
    if made is None:
        raise RuntimeError(f"{diagram.picture}: Mermaid drew nothing: {text[-500:]}")
    return f"{html.unescape(made[1])}\n<!-- drawn of {diagram.digest} -->\n"


if __name__ == "__main__":
    main(sys.argv[1:])
