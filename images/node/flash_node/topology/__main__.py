"""flash-topology: a node's cards and links, the labels that they lead to, and the flags that follow."""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

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

_DESCRIPTION = """\
Shows the cards of a node and the links between them, the labels that follow (as flash-labeller writes them), and the
flags that an engine gets there (as flash-operator derives them), each with its source and its reason.

It reads the machine it runs on, and, where a cluster can be asked, the labels of its Node: a verdict that a test has
found stands there and nowhere else. A dump holds all of that, no pod names, and no other label: send it along with a
report of a bug.
"""

_EPILOG = """\
examples:
  flash-topology                              this machine
  flash-topology --save node.json             keep what was read
  flash-topology --dump node.json --svg node.svg
  flash-topology --assume verified            the flags if a test had passed

exit codes: 0 shown; 1 shown, but no GPU could be read; 2 bad usage, or a file that cannot be read or written
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = _parser().parse_args(arguments)
    try:
        dump = NodeDump.load(options.dump) if options.dump else _live(options.node, options.sys_root)
        view = view_of(dump, options.assume)
        _write(options.save, dump.to_text())
        _write(options.svg, svg_of(view))
    except (BadDumpError, _CannotWriteError) as error:
        _tell(str(error))
        return BAD_USAGE
    colour = sys.stdout.isatty()
    width = os.get_terminal_size().columns if colour else WIDTH
    sys.stdout.write(text_of(view, width=width, colour=colour))
    return NOTHING_READ if dump.is_void else 0


class _CannotWriteError(OSError):
    pass


def _live(node: str | None, sys_root: Path) -> NodeDump:
    dump = read_node(load_nvml(), node or platform.node(), sys_root)
    if node is None:
        _tell("no node is named (--node, $NODE_NAME), so a verdict that stands on the Node is not known here")
        return dump
    try:
        state = connect(node).read()
    except ClusterError as error:
        _tell(f"{error}; a verdict that stands on the Node is not known here")
        return dump
    return with_node(dump, state)


def with_node(dump: NodeDump, state: NodeState) -> NodeDump:
    """With what flags depend on of the Node, and nothing else of it: a dump is sent to others."""
    kept = {
        name: value
        for name, value in state.labels.items()
        if name.startswith(LABEL_PREFIX) or name in (*DRIVER_LABELS, PRODUCT_LABEL)
    }
    return dump.model_copy(update={"node_labels": kept, "probe_report": state.annotations.get(P2P_REPORT_ANNOTATION)})


def _write(file: Path | None, text: str) -> None:
    if file is None:
        return
    try:
        file.write_text(text)
    except OSError as error:
        raise _CannotWriteError(f"{file} cannot be written: {error.strerror}") from error
    _tell(f"written: {file}")


def _tell(message: str) -> None:
    sys.stderr.write(f"flash-topology: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flash-topology",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dump", type=Path, metavar="FILE", help="show what was saved, in place of this machine")
    name = os.environ.get("NODE_NAME")
    told = "this machine's Node (default: $NODE_NAME)"
    source.add_argument("--node", type=node_name, default=name, metavar="NAME", help=told)
    parser.add_argument("--save", type=Path, metavar="FILE", help="write what was read as a dump")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw it")
    told = f"take this verdict for the node's: {', '.join(P2P_VERDICTS)}"
    parser.add_argument("--assume", choices=P2P_VERDICTS, metavar="VERDICT", help=told)
    parser.add_argument("--sys-root", type=Path, default=SYS, metavar="PATH", help="where the host's /sys is (/sys)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
