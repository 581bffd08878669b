"""flash-topology: shows a node's cards and links, the resulting labels, and the flags that follow from them."""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from flash_contracts.environment import Environment
from flash_contracts.names import LABEL_PREFIX, P2P_REPORT_ANNOTATION
from flash_contracts.node_facts import DRIVER_LABELS, P2P_VERDICTS, PRODUCT_LABEL
from flash_node.dump import BadDumpError, NodeDump
from flash_node.labeller.cluster import ClusterError, connect, node_name
from flash_node.labels import NodeState
from flash_node.reading import load_nvml, read_node
from flash_node.sysfs import SYS
from flash_node.topology.drawing import svg_of
from flash_node.topology.text import WIDTH, text_of
from flash_node.topology.view import view_of

NOTHING_READ, BAD_USAGE = 1, 2
STDOUT = Path("-")

_DESCRIPTION = """\
Shows the cards of a node and the links between them, the resulting labels (as flash-labeller sets them), and the flags
that an engine gets on this node (as flash-operator derives them), each with its source and reason.

Reads the machine on which it runs. If a cluster is reachable, it also reads the labels of the Node, because the verdict
of the p2p test is stored only there. A dump contains all of this, but no pod names and no other labels: attach it to
bug reports.
"""

_EPILOG = """\
examples:
  flash-topology                                   show this machine
  flash-topology --save node.json                  save the readings as a dump
  flash-topology --save - > node.json              the same, from another machine through kubectl exec or ssh
  flash-topology --dump node.json --svg node.svg   draw a saved dump
  flash-topology --assume verified                 show the flags as if the p2p test had passed

exit codes: 0 shown; 1 shown, but no GPU could be read; 2 bad usage, or a file that cannot be read or written
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = _parser().parse_args(arguments)
    try:
        dump = NodeDump.load(options.dump) if options.dump else _live(options.node, options.sys_root)
        view = view_of(dump, options.assume)
        if options.save != STDOUT:
            _write(options.save, dump.to_text())
        _write(options.svg, svg_of(view))
    except (BadDumpError, _CannotWriteError) as error:
        _print_message(str(error))
        return BAD_USAGE
    colour = sys.stdout.isatty()
    width = os.get_terminal_size().columns if colour else WIDTH
    sys.stdout.write(dump.to_text() if options.save == STDOUT else text_of(view, width=width, colour=colour))
    return NOTHING_READ if dump.is_empty else 0


class _CannotWriteError(OSError):
    pass


def _live(node: str | None, sys_root: Path) -> NodeDump:
    dump = read_node(load_nvml(), node or platform.node(), sys_root)
    if node is None:
        _print_message("no node name is given (--node or $NODE_NAME), so a p2p test verdict on the Node is not shown")
        return dump
    try:
        state = connect(node).read()
    except ClusterError as error:
        _print_message(f"{error}; a p2p test verdict on the Node is not shown")
        return dump
    return with_node(dump, state)


def with_node(dump: NodeDump, state: NodeState) -> NodeDump:
    """Add only those labels of the Node on which flags depend, because dumps are sent to others."""
    kept = {
        name: value
        for name, value in state.labels.items()
        if name.startswith(LABEL_PREFIX) or name in (*DRIVER_LABELS, PRODUCT_LABEL)
    }
    return dump.model_copy(update={"node_labels": kept, "p2p_report": state.annotations.get(P2P_REPORT_ANNOTATION)})


def _write(file: Path | None, text: str) -> None:
    if file is None:
        return
    try:
        file.write_text(text)
    except OSError as error:
        raise _CannotWriteError(f"cannot write {file}: {error.strerror}") from error
    _print_message(f"wrote {file}")


def _print_message(message: str) -> None:
    sys.stderr.write(f"flash-topology: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flash-topology",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dump", type=Path, metavar="FILE", help="show a saved dump instead of this machine")
    name = Environment(os.environ).optional_text("NODE_NAME")
    description = "name of this machine's Node (default: $NODE_NAME)"
    source.add_argument("--node", type=node_name, default=name, metavar="NAME", help=description)
    description = "save the readings as a dump; `-` prints the dump and nothing else"
    parser.add_argument("--save", type=Path, metavar="FILE", help=description)
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the picture into this file")
    description = f"assume this verdict instead of the node's: {', '.join(P2P_VERDICTS)}"
    parser.add_argument("--assume", choices=P2P_VERDICTS, metavar="VERDICT", help=description)
    parser.add_argument(
        "--sys-root", type=Path, default=SYS, metavar="PATH", help="path of the host's /sys (default: /sys)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
