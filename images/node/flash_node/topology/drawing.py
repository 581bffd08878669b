"""Renders the picture as a self-contained SVG, without fonts, scripts or other files."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from flash_contracts.names import LABEL_PREFIX, P2P_LABEL
from flash_node.dump import PairDump
from flash_node.topology.boxes import Box, boxes_of
from flash_node.topology.text import headline, row_text
from flash_node.topology.view import View, flag_lines

MARGIN = 24.0
LINE = 17.0
LABELS_WIDTH, FLAGS_WIDTH = 270.0, 660.0
REASON_LETTERS, SHEET_LETTERS, CARD_LETTERS = 92, 100, 33
"""Letters that fit into a line, with the widest common fonts."""
CELL_WIDTH, CELL_HEIGHT = 140.0, 26.0

GOOD, DOUBTFUL, BAD, PLAIN = "#1a7f37", "#9a6700", "#cf222e", "#57606a"
COLOURS = {"verified": GOOD, "granted": DOUBTFUL, "unknown": DOUBTFUL}
"""All other values are refusals or faults."""

FILLS = {"numa": "#f6f8fa", "root": "#eaeef2", "card": "#ffffff"}
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}"
    ".b{font-weight:600}.m{text-anchor:middle}.s{font-size:11.5px;fill:#57606a}"
)


def svg_of(view: View) -> str:
    """A complete SVG document."""
    sheet = _Sheet()
    top = sheet.lines(MARGIN, MARGIN + 4, headline(view), "b")
    boxes = boxes_of(view, MARGIN, top - 4)
    sheet.boxes(boxes)
    below = max((box.y + box.height for box in boxes), default=top)
    below = _links(sheet, view, boxes, below + MARGIN)
    bottom = max(_labels(sheet, view, below), _flags(sheet, view, below))
    for warning in view.warnings:
        bottom = sheet.lines(MARGIN, bottom + LINE, f"! {warning}", colour=BAD) - LINE
    for note in view.assessment.notes:
        bottom = sheet.lines(MARGIN, bottom + LINE, f"- {note}", colour=PLAIN) - LINE
    return sheet.document(bottom + MARGIN)


@dataclass
class _Sheet:
    """Collects shapes and tracks their total width."""

    width: float = 2 * MARGIN + LABELS_WIDTH + FLAGS_WIDTH

    def __post_init__(self) -> None:
        self._root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg"})
        ET.SubElement(self._root, "style").text = STYLE
        ET.SubElement(self._root, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})

    def document(self, height: float) -> str:
        self._root.set("viewBox", f"0 0 {self.width:g} {height:g}")
        self._root.set("width", f"{self.width:g}")
        ET.indent(self._root)
        return ET.tostring(self._root, encoding="unicode") + "\n"

    def text(self, x: float, y: float, content: str, kind: str = "", colour: str = "") -> None:
        style = {"style": f"fill:{colour}"} if colour else {}
        element = ET.SubElement(self._root, "text", {"x": f"{x:g}", "y": f"{y:g}", **style})
        if kind:
            element.set("class", kind)
        # The name of a card may contain characters that XML does not allow.
        element.text = "".join(letter if letter.isprintable() else "?" for letter in content)

    def lines(self, x: float, y: float, content: str, kind: str = "", colour: str = "") -> float:
        """Text across the whole sheet. Returns the position of the next line."""
        for line in textwrap.wrap(content, SHEET_LETTERS):
            self.text(x, y, line, kind, colour)
            y += LINE
        return y

    def rectangle(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        self.width = max(self.width, x + width + MARGIN)
        place = {"x": f"{x:g}", "y": f"{y:g}", "width": f"{width:g}", "height": f"{height:g}", "rx": "6"}
        ET.SubElement(self._root, "rect", {**place, "fill": fill, "stroke": "#d0d7de"})

    def path(self, commands: str, colour: str) -> None:
        ET.SubElement(self._root, "path", {"d": commands, "fill": "none", "stroke": colour, "stroke-width": "2.5"})

    def boxes(self, boxes: Iterable[Box]) -> None:
        for box in (inner for outer in boxes for inner in outer.all):
            self.rectangle(box.x, box.y, box.width, box.height, FILLS[box.kind])
            self.text(box.x + 12, box.y + 21, box.title, "b" if box.kind == "card" else "s")
            for number, line in enumerate(box.lines):
                fits = line if len(line) <= CARD_LETTERS else f"{line[: CARD_LETTERS - 3]}..."
                self.text(box.x + 12, box.y + 38 + number * 16, fits, "s")


def _links(sheet: _Sheet, view: View, boxes: tuple[Box, ...], y: float) -> float:
    """Draw a single pair as a line between its cards, and several as a matrix. Returns the position below."""
    pairs = view.dump.pairs
    if len(pairs) == 1:
        cards = {box.card: box for outer in boxes for box in outer.all if box.card is not None}
        return _line(sheet, view, pairs[0], (cards[pairs[0].first], cards[pairs[0].second]), y)
    return _matrix(sheet, view, y) if pairs else y


def _line(sheet: _Sheet, view: View, pair: PairDump, cards: tuple[Box, Box], y: float) -> float:
    colour = COLOURS.get(view.verdict_of(pair), BAD)
    left, right = (box.x + box.width / 2 for box in cards)
    start = cards[0].y + cards[0].height
    sheet.path(f"M{left:g} {start:g} V{y:g} H{right:g} V{start:g}", colour)
    sheet.text((left + right) / 2, y + LINE, view.pair_text(pair), "b m", colour)
    return y + 3 * LINE


def _matrix(sheet: _Sheet, view: View, y: float) -> float:
    order = [gpu.index for gpu in view.dump.gpus]
    for place, index in enumerate(order, start=1):
        sheet.text(MARGIN + place * CELL_WIDTH + 8, y + 12, f"GPU {index}", "s")
        sheet.text(MARGIN, y + place * CELL_HEIGHT + 11, f"GPU {index}", "s")
    for pair in view.dump.pairs:
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            row, column = order.index(one) + 1, order.index(other) + 1
            x, top = MARGIN + column * CELL_WIDTH, y + row * CELL_HEIGHT - 4
            sheet.rectangle(x, top, CELL_WIDTH - 4, CELL_HEIGHT - 4, "#ffffff")
            sheet.text(x + 8, top + 15, view.pair_text(pair), "b", COLOURS.get(view.verdict_of(pair), BAD))
    return y + (len(order) + 2) * CELL_HEIGHT


def _labels(sheet: _Sheet, view: View, y: float) -> float:
    sheet.text(MARGIN, y, LABEL_PREFIX, "b")
    for name, value in view.labels.items():
        y += LINE
        sheet.text(MARGIN, y, name, "s")
        sheet.text(MARGIN + 120, y, value)
        if view.assumed and LABEL_PREFIX + name == P2P_LABEL:
            sheet.text(MARGIN + 190, y, "assumed", "s")
    return y


def _flags(sheet: _Sheet, view: View, y: float) -> float:
    x = MARGIN + LABELS_WIDTH
    for line in textwrap.wrap(row_text(view).strip(), REASON_LETTERS):
        sheet.text(x, y, line, "b")
        y += LINE
    for flag in flag_lines(view.flags):
        y += LINE / 2
        sheet.text(x, y, flag.flag, "b", BAD if flag.source == "conflict" else "")
        for line in textwrap.wrap(f"{flag.source}: {flag.reason}", REASON_LETTERS):
            y += LINE
            sheet.text(x, y, line, "s")
        y += LINE
    return y
