"""`kubectl dsf explain`: one screen about one deployment."""

from typing import Annotated

import typer

from flashctl import completion
from flashctl.exits import Exit
from flashctl.explain.explanation import explain as explained
from flashctl.explain.screen import screen
from flashctl.gathering import facts_about
from flashctl.session import Session, on_cluster

NameArgument = Annotated[str, typer.Argument(help="The deployment.", autocompletion=completion.deployments)]


@on_cluster
def explain(session: Session, *, name: NameArgument) -> Exit:
    """Say whether a deployment is ready, why not, since when, why these flags, and what to do next.

    Ends with 1 if it is not ready.
    """
    facts = facts_about(session.cluster, name)
    found = explained(facts)
    session.show(found, screen(found, facts.now))
    return Exit.DONE if found.ready == "True" else Exit.NOT_READY
