"""The layout of the drawing: nested boxes, computed from the cards outwards. Pure. Lengths are in SVG units."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flash_node.dump import GpuDump
from flash_node.topology.view import View, card_lines

CARD_WIDTH, CARD_HEIGHT = 230.0, 66.0
GAP, TITLE = 14.0, 20.0


@dataclass(frozen=True)
class Box:
    """A rectangle with a title, lines of text, and inner boxes."""

    kind: str
    """numa, root or card."""
    title: str
    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...] = ()
    inside: tuple["Box", ...] = ()
    card: int | None = None

    def moved(self, right: float, down: float) -> "Box":
        inside = tuple(box.moved(right, down) for box in self.inside)
        return replace(self, x=self.x + right, y=self.y + down, inside=inside)

    @property
    def all(self) -> tuple["Box", ...]:
        """This box and all inner boxes, outermost first."""
        return (self, *(box for child in self.inside for box in child.all))


def boxes_of(view: View, x: float, y: float) -> tuple[Box, ...]:
    """One box per NUMA node, side by side."""
    nodes = [_around("numa", numa, _roots_of(roots)) for numa, roots in view.tree.items()]
    return _side_by_side(nodes, x, y)


def _roots_of(roots: dict[str, list[GpuDump]]) -> list[Box]:
    return [_around("root", root, [_card(gpu) for gpu in gpus]) for root, gpus in roots.items()]


def _card(gpu: GpuDump) -> Box:
    return Box("card", f"GPU {gpu.index}", 0, 0, CARD_WIDTH, CARD_HEIGHT, tuple(card_lines(gpu)), card=gpu.index)


def _around(kind: str, title: str, boxes: Sequence[Box]) -> Box:
    inside = _side_by_side(boxes, GAP, GAP + TITLE)
    width = sum(box.width + GAP for box in inside) + GAP
    return Box(kind, title, 0, 0, width, inside[0].height + TITLE + 2 * GAP, inside=inside)


def _side_by_side(boxes: Sequence[Box], x: float, y: float) -> tuple[Box, ...]:
    placed = []
    for box in boxes:
        placed.append(box.moved(x, y))
        x += box.width + GAP
    return tuple(placed)
