"""mkdocs hooks: the pages of the site are those of docs/, and a few files of the repository that they link.

A page may link any file of the repository. Here such a link leads to a copy in the site, so that it is right in both.
Diagrams are Mermaid in the pages, and pictures in the site: Mermaid itself is a script of three megabytes, which the
theme would fetch from elsewhere (`draw_diagrams.py`).
"""

import posixpath
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hack"))

from documentation.diagrams import with_pictures  # noqa: E402 - mkdocs loads this file by its path
from documentation.repository_links import in_site, with_links_of_the_site  # noqa: E402

PAGES_ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "report.md",
    "charts/deepseek-flash-operator/README.md": "chart.md",
}
"""Pages outside docs/, and their names in the site."""

NEVER_RUN = "never-run.md"
ASSETS = {"site.css": "stylesheets/site.css", "iframe-worker.js": "javascripts/iframe-worker.js"}
"""Files beside this one, and their names in the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from elsewhere, and every file that a page links."""
    for source, name in PAGES_ELSEWHERE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    files.append(File.generated(config, NEVER_RUN, content=never_run((ROOT / "README.md").read_text())))
    for asset, name in ASSETS.items():
        files.append(File.generated(config, name, abs_src_path=str(Path(__file__).with_name(asset))))
    for path in sorted(_linked_files(files)):
        files.append(File.generated(config, in_site(path, PAGES_ELSEWHERE), abs_src_path=str(ROOT / path)))
    config["nav"] = expanded(config["nav"], sorted(page.src_uri for page in files.documentation_pages()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """The page with links that hold in the site, and pictures for its diagrams."""
    text, _ = with_links_of_the_site(markdown, source_of(page.file.src_uri), PAGES_ELSEWHERE)
    return with_pictures(text, source_of(page.file.src_uri))


def source_of(page: str) -> str:
    """The file of the repository that a page of the site comes from."""
    if page == NEVER_RUN:
        return "README.md"
    elsewhere = {name: source for source, name in PAGES_ELSEWHERE.items()}
    return elsewhere.get(page, posixpath.join("docs", page))


def never_run(readme: str) -> str:
    """The page of what was never run: the README's section."""
    section = re.search(r"^## (What was never run\n.*?)(?=^## |\nLicence: )", readme, re.MULTILINE | re.DOTALL)
    if section is None:
        raise ValueError("README.md has no section 'What was never run'")
    return f"# {section[1]}"


def expanded(nav: list[Any], pages: list[str]) -> list[Any]:
    """The navigation with each pattern replaced by the pages that fit it, and that nothing else names."""
    named = set(_names(nav))
    free = [page for page in pages if page not in named]
    return _expanded(nav, free)


def _names(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, dict):
            yield from _names([child for value in entry.values() for child in _children(value)])
        else:
            yield entry


def _children(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _expanded(nav: list[Any], free: list[str]) -> list[Any]:
    """Takes the pages that it uses out of `free`."""
    made: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            ((title, inner),) = entry.items()
            kept = _expanded(inner, free) if isinstance(inner, list) else inner
            made += [{title: kept}] if kept else []
        elif "*" in entry:
            fitting = [page for page in free if fnmatch(page, entry)]
            free[:] = [page for page in free if page not in fitting]
            made += fitting
        else:
            made.append(entry)
    return made


def _linked_files(files: Files) -> set[str]:
    linked: set[str] = set()
    for file in files.documentation_pages():
        source = source_of(file.src_uri)
        _, outside = with_links_of_the_site(file.content_string, source, PAGES_ELSEWHERE)
        linked |= outside
    return linked
