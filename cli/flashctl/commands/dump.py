"""`kubectl dsf dump`: a tarball for a bug report."""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from flashctl import completion
from flashctl.dump_contents import DumpContents
from flashctl.dump_files import DumpFile, default_name
from flashctl.exits import Exit
from flashctl.explain.explanation import explain
from flashctl.gathering import facts_about
from flashctl.output import Document
from flashctl.redaction import redacted
from flashctl.session import Session, on_cluster

NameArgument = Annotated[str, typer.Argument(help="The deployment.", autocompletion=completion.deployments)]
ToOption = Annotated[Path | None, typer.Option("--to", help="The file to write. Default: a name with the time, here.")]


class DumpDocument(Document):
    """`dump -o json`, and manifest.json in the tarball."""

    file: str
    deployment: str
    taken_at: str
    plugin_version: str
    server_version: str
    files: list[str]
    unread: list[str]


@on_cluster
def dump(session: Session, *, name: NameArgument, to: ToOption = None) -> Exit:
    """Write a tarball for a bug report: objects, events, gates' results, node facts and logs, without secrets.

    It is written although something cannot be read; manifest.json says what, and why. Look into it before you send it.
    """
    cluster = session.cluster
    facts = facts_about(cluster, name)
    target = to or Path(default_name(facts.namespace, name, facts.now))
    with DumpFile(target, facts.now) as file:
        contents = DumpContents(cluster, facts)
        written: list[str] = []
        for path, text in contents.files():
            file.add_all([(path, text)])
            written.append(path)
        found = explain(facts)
        manifest = DumpDocument(
            file=str(target),
            deployment=f"{facts.namespace}/{name}",
            taken_at=facts.now.isoformat(),
            plugin_version=_own_version(),
            server_version=str(cluster.document("/version").get("gitVersion", "")),
            files=[*written, "explain.json", "manifest.json"],
            unread=contents.unread,
        )
        explained = json.dumps(redacted(found.as_json()), indent=1)
        file.add_all([("explain.json", explained), ("manifest.json", json.dumps(manifest.as_json(), indent=1))])
        file.finish()
    lines = [f"{target}: {len(manifest.files)} files", *(f"not read: {line}" for line in contents.unread)]
    session.show(manifest, Text("\n".join(lines)))
    return Exit.DONE


def _own_version() -> str:
    try:
        return version("flashctl")
    except PackageNotFoundError:
        return "unknown"
