"""The site: built strictly, without anything from elsewhere, and showing what the pages say."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from documentation.diagrams import diagrams_of, with_pictures
from documentation.hooks import PAGES_ELSEWHERE, expanded, never_run, source_of
from documentation.repository_links import with_links_of_the_site

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
CONFIG = ROOT / "hack/documentation/mkdocs.yml"
COUNTED = ("li", "table", "tr", "pre", "h2", "h3", "blockquote")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built strictly: a link or an anchor that leads nowhere is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-f", str(CONFIG), "-d", str(folder)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Page(HTMLParser):
    """What a page asks for, and how many elements its content has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.links: list[str] = []
        self.counts = dict.fromkeys(COUNTED, 0)
        self._in_article = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self._in_article = self._in_article or tag == "article"
        if tag in ("script", "img", "iframe", "link", "source"):
            self.asked.append(known.get("src") or known.get("href") or "")
        elif tag == "a":
            self.links.append(known.get("href", ""))
        if self._in_article and tag in COUNTED:
            self.counts[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self._in_article = self._in_article and tag != "article"


def pages_of(site: Path) -> dict[str, Page]:
    return {str(file.relative_to(site)): Page(file.read_text()) for file in sorted(site.rglob("*.html"))}


def test_nothing_is_asked_of_another_host(site: Path) -> None:
    pages = pages_of(site)
    assert len(pages) > 40
    assert [(name, url) for name, page in pages.items() for url in page.asked if "//" in url] == []
    styles = [style.read_text() for style in site.rglob("*.css")]
    assert not re.findall(r"url\(['\"]?(?:https?:)?//", "".join(styles))


def test_every_file_that_is_asked_for_or_linked_is_there(site: Path) -> None:
    missing = []
    for name, page in pages_of(site).items():
        for url in (*page.asked, *page.links):
            path = url.partition("#")[0].partition("?")[0]
            if path and ":" not in path and name != "404.html" and not (site / name).parent.joinpath(path).exists():
                missing.append((name, url))
    assert missing == []


def test_no_diagram_needs_a_script(site: Path) -> None:
    """The theme would fetch Mermaid from elsewhere for an element of this class."""
    assert [file.name for file in site.rglob("*.html") if 'class="mermaid"' in file.read_text()] == []


def test_the_search_finds_words_of_every_section(site: Path) -> None:
    index = (site / "search/search_index.js").read_text()
    assert index.startswith("var __index = ")
    for words in ("quarantined", "From two cards in a box", "What was never run", "GPTQ"):
        assert words in index


MARKDOWN = MarkdownIt("commonmark").enable("table")


def counts_by_commonmark(markdown: str) -> dict[str, int]:
    return Page(f"<article>{MARKDOWN.render(markdown)}</article>").counts


PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("source", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_site_has_the_lists_tables_and_blocks_that_code_hosts_show(source: Path, site: Path) -> None:
    """Python-Markdown wants a blank line before a list and four blanks of indent, where CommonMark wants neither."""
    page = source.relative_to(ROOT / "docs").with_suffix(".html")
    shown = Page((site / page).read_text()).counts
    assert shown == counts_by_commonmark(with_pictures(source.read_text(), str(source.relative_to(ROOT))))


@pytest.mark.parametrize("source", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_pictures_of_diagrams_are_drawn_of_the_diagrams(source: Path) -> None:
    old = [d.picture for d in diagrams_of(source, ROOT) if not d.is_drawn((ROOT / d.picture).read_text())]
    assert old == [], "run hack/documentation/draw_diagrams.py"


def test_what_was_never_run_is_the_section_of_the_readme() -> None:
    page = never_run("# A\n\n## What was never run\n\n- this\n\nLicence: B\n")
    assert page == "# What was never run\n\n- this\n"
    with pytest.raises(ValueError, match=r"README\.md has no section"):
        never_run("# A\n")


LINKS = {
    "docs/a.md": ("[x](b.md#c) [y](../examples/tiny.yaml)", "[x](b.md#c) [y](repository/examples/tiny.yaml)"),
    "docs/decisions/a.md": ("[x](../b.md) [y](../../CONTRIBUTING.md)", "[x](../b.md) [y](../contributing.md)"),
    "README.md": ("[x](docs/b.md) [y](https://a.org/b.md)", "[x](b.md) [y](https://a.org/b.md)"),
    "CHANGELOG.md": ("[x](docs/b.md#c)", "[x](b.md#c)"),
    "docs/b.md": ("`[x](../y)` [z](../README.md#what-was-never-run)", "`[x](../y)` [z](never-run.md)"),
}


@pytest.mark.parametrize("source", LINKS)
def test_a_link_leads_to_the_same_in_the_site(source: str) -> None:
    written, shown = LINKS[source]
    text, outside = with_links_of_the_site(written, source, PAGES_ELSEWHERE)
    assert text == shown
    assert outside == ({"examples/tiny.yaml"} if "tiny" in written else set())


def test_the_navigation_takes_pages_by_patterns_once_and_leaves_out_what_is_not_there() -> None:
    nav: list[Any] = [{"A": ["a.md", "b.md*"]}, {"R": ["r/*.md"]}, {"None": ["n/*.md"]}, {"More": ["*.md", "*/*.md"]}]
    made = expanded(nav, ["a.md", "c.md", "r/1.md", "r/2.md"])
    assert made == [{"A": ["a.md"]}, {"R": ["r/1.md", "r/2.md"]}, {"More": ["c.md"]}]


def test_every_page_of_the_navigation_has_its_source() -> None:
    assert source_of("chart.md") == "charts/deepseek-flash-operator/README.md"
    assert source_of("decisions/a.md") == "docs/decisions/a.md"
    assert all((ROOT / source).exists() for source in PAGES_ELSEWHERE)
