"""Commands that only read."""

from collections.abc import Callable

from flashctl.commands.explain import explain
from flashctl.commands.status import status

COMMANDS: tuple[Callable[..., None], ...] = (status, explain)
"""In the order of `--help`."""
