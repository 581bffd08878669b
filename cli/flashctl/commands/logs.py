"""`kubectl dsf logs`: engine, gate and fetch of all replicas in one stream."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from flash_contracts.names import DEPLOYMENT_LABEL, KIND
from flash_operator.core.observed.snapshot import RawObject
from flashctl import completion
from flashctl.cluster import Cluster
from flashctl.errors import CommandError, NotFoundError, RefusedError
from flashctl.exits import Exit
from flashctl.log_merge import Follower, LogLine, Source, merged, parsed, seconds_of, sources
from flashctl.output import Format, console, plain
from flashctl.session import Session, on_cluster

COLOURS = {"engine": "cyan", "gate": "green", "fetch": "magenta"}
LOOK_SECONDS = 5.0
"""While following, how often new pods are looked for."""

NameArgument = Annotated[str, typer.Argument(help="The deployment.", autocompletion=completion.deployments)]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines and new pods.")]
SinceOption = Annotated[str | None, typer.Option("--since", help="Only lines younger than 90s, 5m or 2h.")]
TailOption = Annotated[int, typer.Option("--tail", min=-1, help="Last lines of each container; -1 for all.")]
ContainerOption = Annotated[str | None, typer.Option("--container", "-c", help="Only this one: engine, gate or fetch.")]
PreviousOption = Annotated[bool, typer.Option("--previous", "-p", help="Of the containers before their last restart.")]


@on_cluster
def logs(
    session: Session,
    *,
    name: NameArgument,
    follow: FollowOption = False,
    since: SinceOption = None,
    tail: TailOption = 200,
    container: ContainerOption = None,
    previous: PreviousOption = False,
) -> Exit:
    """Show the logs of engine, gate and fetch of all replicas, merged by time.

    Ends with 1 if there is no log.
    """
    query = {"timestamps": "true", "previous": "true" if previous else ""}
    query |= {"tailLines": str(tail)} if tail >= 0 else {}
    query |= {"sinceSeconds": str(seconds_of(since))} if since else {}
    show = _writer(session.output)
    if follow:
        return _followed(session.cluster, name, container, query, show)
    found = sources(_pods(session.cluster, name), container)
    read = [list(_readable(session.cluster, source, query)) for source in found]
    count = 0
    for count, line in enumerate(merged(read), 1):  # noqa: B007 - counts
        show(line)
    if not count:
        where = ", ".join(f"{source.pod} {source.container}" for source in found) or "no pod yet"
        console(sys.stderr).print(Text(f"no log: {where}; kubectl dsf explain {name} says why", style="yellow"))
    return Exit.DONE if count else Exit.NOT_READY


def _pods(cluster: Cluster, name: str) -> list[RawObject]:
    """Raises NotFoundError, with the nearest names, if there is neither a pod nor the deployment."""
    pods = cluster.listed("Pod", labels={DEPLOYMENT_LABEL: name})
    if not pods:
        cluster.get(KIND, name)
    return pods


def _lines(cluster: Cluster, source: Source, query: dict[str, str]) -> Iterator[LogLine]:
    for line in cluster.log_lines(source.pod, {**query, "container": source.container}):
        yield parsed(source, line)


def _readable(cluster: Cluster, source: Source, query: dict[str, str]) -> Iterator[LogLine]:
    """A container that has not started has no log, and a pod may have gone meanwhile: a note, and no error."""
    try:
        yield from _lines(cluster, source, query)
    except (RefusedError, NotFoundError) as error:
        _note(source, error)


def _note(source: Source, error: CommandError) -> None:
    console(sys.stderr).print(Text(f"{source.pod} {source.container}: {error}", style="yellow"))


def _followed(
    cluster: Cluster, name: str, container: str | None, query: dict[str, str], show: Callable[[LogLine], None]
) -> Exit:
    """Until Ctrl-C. A container that ended is read again once it has restarted, from there on."""
    last: dict[Source, str] = {}

    def read(source: Source) -> Iterator[LogLine]:
        chosen = {"timestamps": "true"} if source in last else query
        for line in _lines(cluster, source, {**chosen, "follow": "true"}):
            if line.at > last.get(source, ""):
                last[source] = line.at
                yield line

    follower = Follower(read)
    follower.follow(sources(_pods(cluster, name), container))
    while True:
        for line in follower.lines(LOOK_SECONDS):
            if isinstance(line, LogLine):
                show(line)
            elif not isinstance(line, RefusedError | NotFoundError):
                raise line
        follower.follow(sources(cluster.listed("Pod", labels={DEPLOYMENT_LABEL: name}), container))


def _writer(output: Format) -> Callable[[LogLine], None]:
    out = console()
    return _as_json if output is Format.JSON else lambda line: _as_text(out, line)


def _as_json(line: LogLine) -> None:
    """One document a line."""
    document = {"time": line.at, "pod": line.source.pod, "container": line.source.container, "line": line.text}
    sys.stdout.write(f"{json.dumps(document)}\n")
    sys.stdout.flush()


def _as_text(out: Console, line: LogLine) -> None:
    source = line.source
    text = Text(f"{source.pod} {source.container} ", style=COLOURS.get(source.container, "blue"))
    out.print(text.append(plain(line.text), style="default"), soft_wrap=True)
