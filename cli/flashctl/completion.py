"""Shell completion of names. Answers nothing rather than fail: an error would be printed into the command line."""

from typing import Any

import typer

from flash_contracts.names import DEPLOYMENT_LABEL, KIND
from flashctl.errors import CommandError
from flashctl.session import connect

SECONDS = 3.0


def deployments(context: typer.Context, incomplete: str) -> list[str]:
    return _names(context, incomplete, KIND)


def nodes(context: typer.Context, incomplete: str) -> list[str]:
    return _names(context, incomplete, "Node")


def pods(context: typer.Context, incomplete: str) -> list[str]:
    """Engine pods."""
    return _names(context, incomplete, "Pod", only=DEPLOYMENT_LABEL)


def _names(context: typer.Context, incomplete: str, kind: str, only: str | None = None) -> list[str]:
    given: dict[str, Any] = {**context.params, "request_timeout": SECONDS}
    try:
        found = connect(given).listed(kind)
    except CommandError:
        return []
    names = [item["metadata"] for item in found]
    return sorted(
        str(one["name"])
        for one in names
        if str(one["name"]).startswith(incomplete) and (only is None or only in (one.get("labels") or {}))
    )
