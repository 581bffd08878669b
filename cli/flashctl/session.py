"""The options that every command has, and the cluster that they choose."""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from flashctl.cluster import REQUEST_SECONDS, Cluster
from flashctl.errors import CommandError
from flashctl.exits import Exit
from flashctl.kubeconfig import login
from flashctl.output import Document, Format, show


@dataclass(frozen=True)
class Session:
    """One run of a command."""

    cluster: Cluster
    output: Format = Format.TEXT
    kubectl: tuple[str, ...] = ()
    """Options by which kubectl reaches the same cluster as the same user."""

    def show(self, document: Document, text: RenderableType) -> None:
        show(document, text, self.output)


NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="Default: that of the context.")]
ContextOption = Annotated[str | None, typer.Option("--context", help="A context of the kubeconfig.")]
KubeconfigOption = Annotated[str | None, typer.Option("--kubeconfig", help="Default: $KUBECONFIG, or ~/.kube/config.")]
UserOption = Annotated[str | None, typer.Option("--as", help="A user to impersonate.", metavar="USER")]
OutputOption = Annotated[Format, typer.Option("--output", "-o", help="Text, or a JSON document.")]
SecondsOption = Annotated[
    float, typer.Option("--request-timeout", min=1.0, max=600.0, help="Seconds to wait for each answer.")
]

OPTIONS: dict[str, tuple[Any, Any]] = {
    "namespace": (NamespaceOption, None),
    "context": (ContextOption, None),
    "kubeconfig": (KubeconfigOption, None),
    "as_user": (UserOption, None),
    "output": (OutputOption, Format.TEXT),
    "request_timeout": (SecondsOption, REQUEST_SECONDS),
}
"""Type and default by name. `on_cluster` adds them to each command."""


def on_cluster(run: Callable[..., Exit | None]) -> Callable[..., None]:
    """Makes a command of a function whose first parameter is a Session.

    The function returns its exit code (None for 0), and raises CommandError for what ends it early. Its own
    parameters must not have a name of OPTIONS.
    """

    @functools.wraps(run)
    def command(**given: Any) -> None:
        common = {name: given.pop(name) for name in OPTIONS}
        raise typer.Exit(guarded(lambda: run(_session(common), **given)))

    own = list(inspect.signature(run, eval_str=True).parameters.values())[1:]
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in OPTIONS.items()
    ]
    command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *added)}
    return command


def guarded(run: Callable[[], Exit | None]) -> int:
    """The exit code. What ends the command early is one line on stderr."""
    try:
        return int(run() or Exit.DONE)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit)
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)


def _session(common: dict[str, Any]) -> Session:
    cluster = connect(common)
    chosen = {"context": common["context"], "kubeconfig": common["kubeconfig"], "as": common["as_user"]}
    options = tuple(f"--{name}={value}" for name, value in chosen.items() if value)
    return Session(cluster, common["output"], options)


def connect(common: dict[str, Any]) -> Cluster:
    """The cluster that the options choose. No request is sent yet."""
    chosen = login(common.get("kubeconfig"), common.get("context"), common.get("as_user"))
    return Cluster(chosen, namespace=common.get("namespace"), seconds=common.get("request_timeout") or REQUEST_SECONDS)
