"""`kubectl dsf status`: the table of deployments, once or live."""

from time import sleep
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from flash_contracts.names import KIND
from flashctl import completion
from flashctl.cluster import Cluster
from flashctl.errors import UnreachableError, UsageError
from flashctl.exits import Exit
from flashctl.output import Format, console
from flashctl.session import Session, on_cluster
from flashctl.status_table import Row, StatusDocument, rows, table

NameArgument = Annotated[
    str | None, typer.Argument(help="All, if none is named.", autocompletion=completion.deployments)
]
EverywhereOption = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")]

WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Draw it anew every 2 seconds, until Ctrl-C.")]
WATCH_SECONDS = 2.0


@on_cluster
def status(
    session: Session, *, name: NameArgument = None, everywhere: EverywhereOption = False, watch: WatchOption = False
) -> Exit:
    """Show the deployments: ready, how fast, since when, and why not.

    Ends with 1 if one of them is not ready.
    """
    cluster = session.cluster
    if name and everywhere:
        raise UsageError("NAME is of one namespace: leave out either it or --all-namespaces")
    if watch and session.output is Format.JSON:
        raise UsageError("--watch draws a table: leave out -o json, or use kubectl get dsf -w -o json")
    if watch:
        return _watched(cluster, name, everywhere=everywhere)
    found = _rows(cluster, name, everywhere=everywhere)
    session.show(StatusDocument(deployments=found), _drawn(cluster, found, everywhere=everywhere))
    return Exit.DONE if all(row.ready == "True" for row in found) else Exit.NOT_READY


def _rows(cluster: Cluster, name: str | None, *, everywhere: bool) -> list[Row]:
    return rows([cluster.get(KIND, name)] if name else cluster.listed(KIND, everywhere=everywhere))


def _drawn(cluster: Cluster, found: list[Row], *, everywhere: bool) -> RenderableType:
    if not found:
        return Text(f"no deployment in {'the cluster' if everywhere else f'namespace {cluster.namespace}'}")
    return table(found, cluster.now(), namespaces=everywhere)


def _watched(cluster: Cluster, name: str | None, *, everywhere: bool) -> Exit:
    """Until Ctrl-C. A cluster that does not answer for a while is no reason to end; the first answer must come."""
    found = _rows(cluster, name, everywhere=everywhere)
    with Live(_drawn(cluster, found, everywhere=everywhere), console=console(), auto_refresh=False) as live:
        while True:
            sleep(WATCH_SECONDS)
            problem = ""
            try:
                found = _rows(cluster, name, everywhere=everywhere)
            except UnreachableError as error:
                problem = f"not current: {error}"
            drawn = _drawn(cluster, found, everywhere=everywhere)
            live.update(Group(drawn, Text(problem, style="yellow")) if problem else drawn, refresh=True)
