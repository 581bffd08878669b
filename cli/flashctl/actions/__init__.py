"""Commands that change something in the cluster, or load an engine."""

from collections.abc import Callable

from flashctl.actions.bench import bench
from flashctl.actions.diff import diff
from flashctl.actions.quarantine import quarantine, release
from flashctl.actions.retry import retry
from flashctl.actions.rollback import rollback
from flashctl.actions.update import update

COMMANDS: tuple[Callable[..., None], ...] = (diff, update, rollback, retry, quarantine, release, bench)
"""In the order of `--help`."""
