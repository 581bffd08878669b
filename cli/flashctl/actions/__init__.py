"""Commands that change something in the cluster, or load an engine."""

from collections.abc import Callable

COMMANDS: tuple[Callable[..., None], ...] = ()
"""In the order of `--help`."""
