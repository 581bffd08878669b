"""Links between files of the repository, and where they lead in the site."""

import posixpath
import re
from collections.abc import Mapping

LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s]+)(?P<after>\))")
FENCE = re.compile(r"(^ *```.*?^ *```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
"""Code, in which nothing is a link."""
DOCS = "docs/"
COPIES = "repository/"
"""The folder of the site with files from outside docs/."""


def in_site(path: str, pages_elsewhere: Mapping[str, str]) -> str:
    """Where a file of the repository is in the site."""
    if path in pages_elsewhere:
        return pages_elsewhere[path]
    return path.removeprefix(DOCS) if path.startswith(DOCS) else COPIES + path


def with_links_of_the_site(markdown: str, source: str, pages_elsewhere: Mapping[str, str]) -> tuple[str, set[str]]:
    """The page with its links rewritten for the site, and the files outside docs/ that it links.

    `source` is the page's path in the repository. The README's parts are other pages of the site.
    """
    outside: set[str] = set()
    here = posixpath.dirname(in_site(source, pages_elsewhere) if source != "README.md" else "")

    def rewritten(match: re.Match[str]) -> str:
        path, mark, anchor = match["target"].partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target == "README.md":
            there, mark, anchor = ("never-run.md" if anchor == "what-was-never-run" else "index.md"), "", ""
        else:
            there = in_site(target, pages_elsewhere)
        if there.startswith(COPIES):
            outside.add(target)
        return f"{match['before']}{posixpath.relpath(there, here or '.')}{mark}{anchor}{match['after']}"

    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(rewritten, part) for part in parts[::2]]
    return "".join(parts), outside
