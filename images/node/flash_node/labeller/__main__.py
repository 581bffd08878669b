"""flash-labeller: keeps this node's labels up to date with its GPUs and the links between them."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from structlog.contextvars import bind_contextvars, merge_contextvars

from flash_contracts.environment import Environment
from flash_node.dump import BadDumpError, NodeDump
from flash_node.labeller.cluster import ClusterError, connect, node_name
from flash_node.labeller.loop import LabelLoop
from flash_node.reading import load_nvml, read_node
from flash_node.sysfs import SYS, loaded_driver

log = structlog.get_logger("flash.labeller")

DRIVER_CHECK_SECONDS = 5.0
NOT_PUBLISHED, BAD_USAGE = 1, 2

_DESCRIPTION = """\
Reads NVML and /sys at every interval, and updates its own node's labels deepseekflash.dev/gpu-*.

A tested verdict (gpu-p2p verified, hang or corrupt) is kept while the driver and the cards stay the same. Nodes with
the label deepseekflash.dev/labels-managed="false" are not changed. A container keeps the driver library that was
mounted when it started, so the program exits when the driver changes, and the kubelet restarts it with the new one.

exit codes: 0 stopped by a signal, or the driver has changed; 1 labels not published (with --once); 2 bad usage
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
        read = _reader(options)
        loop = LabelLoop(connect(options.node), read)
    except (BadDumpError, ClusterError) as error:
        log.error("cannot start", error=str(error))  # noqa: TRY400 - a traceback would add nothing
        return BAD_USAGE
    if options.once:
        return 0 if loop.run_once() else NOT_PUBLISHED
    _run_until_stopped(loop, options.interval_seconds, options.sys_root)
    return 0


def _run_until_stopped(loop: LabelLoop, interval: float, root: Path) -> None:
    """Run until a signal arrives or the kernel loads another driver."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    driver = loaded_driver(root)
    while not stopped.is_set():
        loop.run_once()
        waited = 0.0
        while waited < interval and not stopped.wait(min(DRIVER_CHECK_SECONDS, interval - waited)):
            waited += DRIVER_CHECK_SECONDS
            if loaded_driver(root) != driver:
                log.info("exiting because the driver has changed", before=driver, now=loaded_driver(root))
                return


def _reader(options: argparse.Namespace) -> Callable[[], NodeDump]:
    """Load a dump only once, so that a bad one is reported at the start. Raises BadDumpError."""
    if options.dump:
        dump = NodeDump.load(options.dump)
        return lambda: dump
    nvml = load_nvml()
    return lambda: read_node(nvml, options.node, options.sys_root)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flash-labeller", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    name = Environment(os.environ).optional_text("NODE_NAME")
    description = "name of the node (default: $NODE_NAME)"
    parser.add_argument("--node", type=node_name, default=name, required=name is None, help=description)
    parser.add_argument("--interval-seconds", type=_seconds, default=60.0, help="time between readings (default: 60)")
    parser.add_argument("--once", action="store_true", help="read and publish once, then exit")
    parser.add_argument("--dump", type=Path, help="publish this dump instead of a reading (for tests)")
    parser.add_argument("--sys-root", type=Path, default=SYS, help="path of the host's /sys (default: /sys)")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86_400:  # noqa: PLR2004 - a second, a day
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds between 1 and 86400")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
