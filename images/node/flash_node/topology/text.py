"""Renders the picture as text: cards by NUMA node and root complex, pairs, labels, and flags with their reasons."""

import io
from collections.abc import Iterator

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from flash_node.interpretation import link_of
from flash_node.topology.view import View, card_lines, flag_lines

WIDTH = 120


def text_of(view: View, *, width: int = WIDTH, colour: bool = False) -> str:
    """The whole text, with a final newline."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=colour, highlight=False, emoji=False, markup=False)
    for part in _parts(view):
        console.print(part)
    return "\n".join(line.rstrip() for line in file.getvalue().split("\n")).rstrip("\n") + "\n"


def _parts(view: View) -> Iterator[RenderableType]:
    yield _cards(view)
    if view.dump.pairs:
        yield _pairs(view)
    yield _labels(view)
    yield _flags(view)
    for mark, style, messages in ((" ! ", "yellow", view.warnings), (" - ", "", view.assessment.notes)):
        for message in messages:
            yield _marked(mark, message, style)


def _marked(mark: str, message: str, style: str) -> Table:
    grid = Table.grid()
    grid.add_row(mark, Text(message, style=style))
    return grid


def headline(view: View) -> str:
    dump = view.dump
    parts = [f"node {dump.node}" if dump.node else "unnamed node", f"driver {dump.driver or 'unknown'}"]
    return ", ".join([*parts, *([f"read {dump.taken_at}"] if dump.taken_at else [])])


def _cards(view: View) -> Tree:
    tree = Tree(Text(headline(view), style="bold"))
    for numa, roots in view.tree.items():
        branch = tree.add(numa)
        for root, gpus in roots.items():
            leaf = branch.add(root)
            for gpu in gpus:
                leaf.add(Text(f"GPU {gpu.index}: {gpu.name or 'unknown'}, {', '.join(card_lines(gpu))}"))
    return tree


def _pairs(view: View) -> Table:
    """A matrix as in `nvidia-smi topo -m`, with the peer-to-peer status."""
    table = Table("", *(f"GPU {gpu.index}" for gpu in view.dump.gpus), box=box.SIMPLE_HEAD)
    full = {(pair.first, pair.second): view.pair_text(pair) for pair in view.dump.pairs}
    short = {(pair.first, pair.second): link_of(pair) for pair in view.dump.pairs}
    shown = full if len(view.dump.gpus) <= 4 else short  # noqa: PLR2004 - more would not fit a terminal
    both = {**shown, **{(second, first): text for (first, second), text in shown.items()}}
    for gpu in view.dump.gpus:
        row = (both.get((gpu.index, other.index), "-") for other in view.dump.gpus)
        table.add_row(f"GPU {gpu.index}", *row)
    return table


def _labels(view: View) -> Table:
    assumed = f" (gpu-p2p={view.assumed} is assumed)" if view.assumed else ""
    table = Table(f"label deepseekflash.dev/{assumed}", "value", box=box.SIMPLE_HEAD)
    for name, value in view.labels.items():
        table.add_row(name, value)
    return table


def _flags(view: View) -> Table:
    table = Table("flag", "source", "reason", box=box.SIMPLE_HEAD, title=row_text(view), title_justify="left")
    for line in flag_lines(view.flags):
        table.add_row(line.flag, line.source, line.reason)
    return table


def row_text(view: View) -> str:
    return f" row {view.row.name} (evidence {view.row.evidence}): {view.row.why}"
