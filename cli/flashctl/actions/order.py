"""What all orders have in common: a time, a question to the user, and the operator's answer."""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any

import typer

from flash_contracts.names import KIND
from flash_contracts.orders import RollbackOrder, order_time
from flash_operator.core.observed.snapshot import RawObject
from flashctl import completion
from flashctl.cluster import Cluster
from flashctl.errors import CommandError, RefusedError, UsageError
from flashctl.exits import Exit
from flashctl.output import Document

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
NameArgument = Annotated[str, typer.Argument(help="The deployment.", autocompletion=completion.deployments)]
PodArgument = Annotated[str, typer.Argument(help="An engine pod.", autocompletion=completion.pods)]
WaitOption = Annotated[
    float, typer.Option("--wait", min=0.0, max=3600.0, help="Seconds to wait until it is done; 0 not to wait.")
]
POLL_SECONDS = 1.0
TRIES = 5
"""Of a change that conflicts with the operator's."""


class NothingToDoError(CommandError):
    """The command has nothing to do."""

    exit = Exit.NOT_READY


class NotDoneError(CommandError):
    """It was ordered, and not carried out."""

    exit = Exit.REFUSED


class ActionDocument(Document):
    """`-o json` of a command that changes something."""

    namespace: str
    name: str
    """Of the deployment or pod."""
    action: str
    message: str
    """What was done."""


def order_now(*earlier: str | None, now: datetime | None = None) -> str:
    """The time of a new order: later than the earlier ones, even if they were given by a clock that is ahead."""
    known = [moment for text in earlier if (moment := _moment(text))]
    try:
        latest = max((now or datetime.now(UTC), *(moment + timedelta(seconds=1) for moment in known)))
    except OverflowError as error:
        raise UsageError("an earlier order is of the last second of time: remove its annotation first") from error
    return latest.strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(text: str | None) -> datetime | None:
    rollback = RollbackOrder.parse(text)
    at = order_time(rollback.at if rollback else text)
    try:
        return datetime.fromisoformat(at) if at else None
    except ValueError:  # the 31st of February
        return None


def confirm(question: str, *, yes: bool) -> None:
    """Asks on stderr, so that `-o json` stays a document. Raises UsageError where nobody can answer."""
    if yes:
        return
    # It quotes what others wrote, which must not move the cursor.
    question = "".join(letter for letter in question if letter.isprintable() or letter == "\n")
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to answer on: --yes says so beforehand")
    if not typer.confirm(question, err=True):
        raise NothingToDoError("nothing was changed")


def change(
    cluster: Cluster, kind: str, name: str, namespace: str | None, change_of: Callable[[RawObject], RawObject]
) -> RawObject:
    """The object after a merge patch that `change_of` makes of it, and that applies to no other version of it.

    The operator often writes the status, so a conflict is no news: `change_of` looks again, and raises CommandError if
    what the user agreed to is no longer there.
    """
    for _ in range(TRIES - 1):
        try:
            return _patch(cluster, kind, cluster.get(kind, name, namespace), change_of)
        except RefusedError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
    return _patch(cluster, kind, cluster.get(kind, name, namespace), change_of)


def _patch(cluster: Cluster, kind: str, raw: RawObject, change_of: Callable[[RawObject], RawObject]) -> RawObject:
    body, metadata = change_of(raw), raw["metadata"]
    same = {key: metadata[key] for key in ("uid", "resourceVersion")}
    bound = {**body, "metadata": {**body.get("metadata", {}), **same}}
    return cluster.patch(kind, metadata["name"], bound, metadata.get("namespace"))


def annotation(name: str, value: str | None) -> RawObject:
    """A patch that sets or removes it."""
    return {"metadata": {"annotations": {name: value}}}


def annotations_of(raw: RawObject) -> dict[str, str]:
    found: dict[str, str] = raw["metadata"].get("annotations") or {}
    return found


def answer_to(raw: RawObject, order: str, value: str) -> dict[str, Any]:
    """The operator's answer to this order; empty until there is one."""
    answers = (raw.get("status") or {}).get("orders") or []
    return next((one for one in answers if one.get("order") == order and one.get("value") == value), {})


def wait_for_answer(
    cluster: Cluster,
    raw: RawObject,
    order: str,
    value: str,
    seconds: float,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """What the operator says about it. Raises NotDoneError if it refuses, or says nothing in time."""
    metadata = raw["metadata"]
    for _ in range(max(1, round(seconds / POLL_SECONDS))):
        answer = answer_to(cluster.get(KIND, metadata["name"], metadata.get("namespace")), order, value)
        if answer.get("state") == "Refused":
            raise NotDoneError(f"the operator refuses: {answer.get('message')}")
        if answer:
            return f"{answer.get('state')}: {answer.get('message')}"
        pause(POLL_SECONDS)
    raise NotDoneError(
        f"ordered, but the operator has not answered within {seconds:g} s: is it running, and new enough? The order "
        "stands, and is carried out when it is"
    )
