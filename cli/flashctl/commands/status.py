"""`kubectl dsf status`: the table of deployments, once or live."""

from typing import Annotated

import typer

from flash_contracts.names import KIND
from flashctl import completion
from flashctl.exits import Exit
from flashctl.session import Session, on_cluster
from flashctl.status_table import StatusDocument, rows, table

NameArgument = Annotated[
    str | None, typer.Argument(help="All, if none is named.", autocompletion=completion.deployments)
]
EverywhereOption = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")]


@on_cluster
def status(session: Session, *, name: NameArgument = None, everywhere: EverywhereOption = False) -> Exit:
    """Show the deployments: ready, how fast, since when, and why not.

    Ends with 1 if one of them is not ready.
    """
    cluster = session.cluster
    found = rows([cluster.get(KIND, name)] if name else cluster.listed(KIND, everywhere=everywhere))
    session.show(StatusDocument(deployments=found), table(found, cluster.now(), namespaces=everywhere))
    return Exit.DONE if all(row.ready == "True" for row in found) else Exit.NOT_READY
