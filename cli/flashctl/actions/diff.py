"""`kubectl dsf diff`: what an apply of a file would restart, before it.

The API server says whether it would take the file (a dry run with the user's rights). Both specs are then rendered by
the operator's own code, so the answer is the operator's.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from flash_contracts.names import KIND
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.rollout.template_revision import TemplateRevision
from flashctl.actions.difference import Difference, Effect, as_applied, difference, text_of
from flashctl.cluster import Cluster
from flashctl.errors import UsageError
from flashctl.exits import Exit
from flashctl.output import Document
from flashctl.session import Session, on_cluster

FileOption = Annotated[str, typer.Option("--filename", "-f", help="A manifest; - for stdin.")]


class DiffDocument(Document):
    """`diff -o json`."""

    deployments: list[Difference]


@on_cluster
def diff(session: Session, *, filename: FileOption) -> Exit:
    """Show what `kubectl apply -f FILE` would change, and which engines it would restart. Changes nothing.

    Like `kubectl diff`, ends with 0 if nothing differs, with 1 if something does, and with more on an error.
    """
    found = [_difference(session.cluster, wanted) for wanted in manifests(_read(filename), filename)]
    session.show(DiffDocument(deployments=found), "\n".join(map(text_of, found)))
    return Exit.NOT_READY if any(one.effect is not Effect.NOTHING for one in found) else Exit.DONE


def manifests(text: str, filename: str) -> list[RawObject]:
    """The deployments in a file. Raises UsageError."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{filename} is no YAML: {' '.join(str(error).split())}") from error
    items = [item for document in documents for item in _items(document)]
    if not all(isinstance(item, dict) and isinstance(item.get("metadata"), dict) for item in items):
        raise UsageError(f"{filename} has a document that is no Kubernetes object: it has no metadata")
    ours = [item for item in items if item.get("kind") == KIND]
    if not ours:
        raise UsageError(f"{filename} has no {KIND}: kubectl diff -f {filename} is for other kinds")
    for item in ours:
        if not isinstance(item["metadata"].get("name"), str) or not isinstance(item.get("spec"), dict):
            raise UsageError(f"{filename}: a {KIND} needs metadata.name and spec")
    return ours


def _items(document: Any) -> list[Any]:
    is_list = isinstance(document, dict) and document.get("kind") == "List"
    return list(document.get("items") or []) if is_list else [document]


def _read(filename: str) -> str:
    try:
        return typer.get_text_stream("stdin").read() if filename == "-" else Path(filename).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{filename} cannot be read: {error}") from error


def _difference(cluster: Cluster, wanted: RawObject) -> Difference:
    name, namespace = wanted["metadata"]["name"], wanted["metadata"].get("namespace") or cluster.namespace
    live = cluster.find(KIND, name, namespace)
    taken = cluster.dry_apply(wanted, namespace)
    if live is None:
        return difference(None, _readable(taken), {}, None)
    applied = {**taken, "spec": as_applied(live, wanted, taken)}
    status = live.get("status") or {}
    revision = (status.get("rollout") or {}).get("revision")
    stored = cluster.find("ControllerRevision", f"{name}-{revision}", namespace) if revision else None
    return difference(_readable(live), _readable(applied), status, TemplateRevision.parse(stored) if stored else None)


def _readable(raw: RawObject) -> FlashDeployment:
    try:
        return FlashDeployment.from_object({**raw, "metadata": {"uid": "", **raw["metadata"]}})
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
        raise UsageError(f"this plugin cannot read spec.{found}: install that of the operator's version") from error
