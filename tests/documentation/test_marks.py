"""Every block of commands in the documentation is run by a test, or says why not."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from documentation.command_blocks import ROOT, Block, all_blocks, blocks_of, pages

BLOCKS = all_blocks()


def ids(block: Block) -> str:
    return block.name


@pytest.mark.parametrize("block", BLOCKS, ids=ids)
def test_a_block_names_its_test_or_the_reason_why_there_is_none(block: Block) -> None:
    assert block.run_by or len(block.not_run or "") > 20


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.run_by], ids=ids)
def test_the_named_test_exists_and_has_the_commands(block: Block) -> None:
    """It takes the block itself from the page, or its file has each command."""
    file, _, test = (block.run_by or "").partition("::")
    text = (ROOT / file).read_text()
    assert re.search(rf"^\s*(async )?def {test}\(", text, re.MULTILINE), f"{file} has no {test}"
    if "blocks_run_by(" not in text:
        assert [command for command in block.commands if command not in text] == []


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.not_run], ids=ids)
def test_tests_and_files_that_a_reason_names_exist(block: Block) -> None:
    named = re.findall(r"\b(?:tests|benchmarks|docs)/[\w./-]+\.\w+", block.not_run or "")
    assert [path for path in named if not (ROOT / path).exists()] == []


COMMAND = re.compile(r"(?:\$ |sudo |[A-Z_]+=\S+ )*(?:kubectl|helm|make|docker|python3?|\.venv|flash-|mtp-|curl)\b")
LANGUAGES = {"", "sh", "console", "yaml", "json", "mermaid", "python"}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_of_commands_is_overlooked(page: Path) -> None:
    """Seen by a parser of Markdown: as `sh` or `console` they are found, and nothing else may begin with a command."""
    blocks = [token for token in MarkdownIt().parse(page.read_text()) if token.type in ("fence", "code_block")]
    assert {block.info for block in blocks} <= LANGUAGES
    marked = [block for block in blocks if block.info in ("sh", "console")]
    assert len(marked) == len(list(blocks_of(page)))
    assert [block.content for block in blocks if not block.info and COMMAND.match(block.content)] == []


def test_a_block_and_its_mark_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- run-by: tests/a.py::test_b -->\n```sh\nmake a # why\nkubectl get \\\n  pods\n```\n"
        "```yaml\na: b\n```\n```sh\ncurl x\n```\n<!-- not run: it needs a GPU -->\n```sh\nnvidia-smi\n```\n"
    )
    monkeypatch.setattr("documentation.command_blocks.ROOT", tmp_path)
    first, second, third = blocks_of(page)
    assert (first.run_by, first.commands) == ("tests/a.py::test_b", ["make a", "kubectl get pods"])
    assert (second.run_by, second.not_run, second.line) == (None, None, 10)
    assert third.not_run == "it needs a GPU"

    page.write_text(f"<!-- unless marked, not run: it needs two GPUs -->\n{page.read_text()}")
    assert [block.not_run for block in blocks_of(page)] == [None, "it needs two GPUs", "it needs a GPU"]
