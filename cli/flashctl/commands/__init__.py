"""Commands that only read."""

from collections.abc import Callable

from flashctl.commands.check import check
from flashctl.commands.dump import dump
from flashctl.commands.explain import explain
from flashctl.commands.logs import logs
from flashctl.commands.status import status
from flashctl.commands.topology import topology

COMMANDS: tuple[Callable[..., None], ...] = (status, explain, topology, logs, dump, check)
"""In the order of `--help`."""
