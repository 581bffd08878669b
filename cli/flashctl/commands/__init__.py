"""Commands that only read."""

from collections.abc import Callable

from flashctl.commands.status import status

COMMANDS: tuple[Callable[..., None], ...] = (status,)
"""In the order of `--help`."""
