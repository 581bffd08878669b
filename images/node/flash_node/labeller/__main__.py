"""flash-labeller: keep this node's labels at what its cards and links are."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from structlog.contextvars import bind_contextvars, merge_contextvars

from flash_node.dump import BadDumpError, NodeDump
from flash_node.labeller.cluster import ClusterError, connect, node_name
from flash_node.labeller.loop import Rounds
from flash_node.reading import load_nvml, read_node
from flash_node.sysfs import SYS, driver_module

log = structlog.get_logger("flash.labeller")

DRIVER_LOOK_SECONDS = 5.0
NOT_PUBLISHED, BAD_USAGE = 1, 2

_DESCRIPTION = """\
Reads NVML and /sys, and writes the labels deepseekflash.dev/gpu-* of its own node, anew every interval.

A verdict that a test has found (gpu-p2p verified, hang or corrupt) stays while the driver stays. Nothing is touched
on a node with the label deepseekflash.dev/labels-managed="false". The driver's library in a container is that of the
driver which was loaded when it started, so with another driver the program ends, and its pod begins anew.

exit codes: 0 asked to end, or the driver has changed; 1 (with --once) the labels could not be published; 2 bad usage
"""


def main() -> int:
    """Entry point."""
    options = _parser().parse_args()
    structlog.configure(
        processors=[
            merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ]
    )
    bind_contextvars(node=options.node)
    try:
        read = _source(options)
        rounds = Rounds(connect(options.node), read)
    except (BadDumpError, ClusterError) as error:
        log.error("cannot begin", error=str(error))  # noqa: TRY400 - the message says all, and no trace more
        return BAD_USAGE
    if options.once:
        return 0 if rounds.look() else NOT_PUBLISHED
    _go_on(rounds, options.interval_seconds, options.sys_root)
    return 0


def _go_on(rounds: Rounds, interval: float, root: Path) -> None:
    """Until a signal comes or the kernel has another driver."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    driver = driver_module(root)
    while not ended.is_set():
        rounds.look()
        waited = 0.0
        while waited < interval and not ended.wait(min(DRIVER_LOOK_SECONDS, interval - waited)):
            waited += DRIVER_LOOK_SECONDS
            if driver_module(root) != driver:
                log.info("the driver has changed", before=driver, now=driver_module(root))
                return


def _source(options: argparse.Namespace) -> Callable[[], NodeDump]:
    """Raises BadDumpError at once, and not in every round, for a dump that is none."""
    if options.dump:
        dump = NodeDump.load(options.dump)
        return lambda: dump
    nvml = load_nvml()
    return lambda: read_node(nvml, options.node, options.sys_root)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flash-labeller", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    name = os.environ.get("NODE_NAME")
    told = "name of the node (default: $NODE_NAME)"
    parser.add_argument("--node", type=node_name, default=name, required=name is None, help=told)
    parser.add_argument("--interval-seconds", type=_seconds, default=60.0, help="time between readings (60)")
    parser.add_argument("--once", action="store_true", help="read and publish once, and end")
    parser.add_argument("--dump", type=Path, help="publish this dump in place of a reading (for tests)")
    parser.add_argument("--sys-root", type=Path, default=SYS, help="where the host's /sys is (/sys)")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86_400:  # noqa: PLR2004 - a second, a day
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds between 1 and 86400")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
