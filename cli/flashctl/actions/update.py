"""`kubectl dsf update`: takes the engine update that the operator offers."""

from typing import Any

from flash_contracts.names import KIND
from flash_operator.core.observed.snapshot import RawObject
from flashctl.actions.order import ActionDocument, NameArgument, NothingToDoError, YesOption, change, confirm
from flashctl.session import Session, on_cluster


@on_cluster
def update(session: Session, *, name: NameArgument, yes: YesOption = False) -> None:
    """Take the available engine update: sets spec.rollout.acceptUpdate to its name.

    Ends with 1 if none is available.
    """
    raw = session.cluster.get(KIND, name)
    offer = offered(raw)
    revision = offer["revision"]
    changes = "".join(f"\n  {change}" for change in offer.get("changes") or [])
    confirm(f"Update {revision} of {name}:{changes}\n{restarts(raw)} Take it?", yes=yes)
    namespace = raw["metadata"].get("namespace", "")
    change(session.cluster, KIND, name, namespace, lambda now: accepting(now, revision))
    message = (
        f"{name} takes it: {revision}. {restarts(raw)} kubectl dsf status {name} shows the progress. If Git has the "
        f"manifest, set spec.rollout.acceptUpdate: {revision} there too"
    )
    session.show(ActionDocument(namespace=namespace, name=name, action="update", message=message), message)


def offered(raw: RawObject) -> dict[str, Any]:
    """The update in status that can be taken. Raises NothingToDoError, with the reason."""
    name = raw["metadata"]["name"]
    update: dict[str, Any] = (raw.get("status") or {}).get("update") or {}
    revision, message = update.get("revision"), update.get("message", "")
    match update.get("state"):
        case "Available" | "Waiting" if revision:
            return update
        case "Updating":
            raise NothingToDoError(f"{name} takes update {revision} already: {message}")
        case "Rejected":
            raise NothingToDoError(
                f"update {revision} of {name} was taken and rolled back: {message}; kubectl dsf retry {name} tries it "
                "again"
            )
        case None:
            raise NothingToDoError(f"no operator has reported on {name} yet, so no update of it is known")
        case _:
            raise NothingToDoError(f"no update of {name} is available: its engines are up to date")


def restarts(raw: RawObject) -> str:
    """What happens to the replicas."""
    spec = raw.get("spec") or {}
    replicas = spec.get("replicas", 1)
    surges = (spec.get("rollout") or {}).get("surge", "Auto") != "Disabled"
    if replicas == 0:
        return "No engine runs now."
    if replicas == 1 and not surges:
        return "Its only replica restarts, and nobody serves until it has passed its gate."
    if replicas == 1:
        return "Its only replica restarts; unless two more GPUs are free, nobody serves until it has passed its gate."
    return f"Its {replicas} replicas restart one by one, and are rolled back if they fail or become slower."


def accepting(raw: RawObject, revision: str) -> RawObject:
    """The patch. Raises NothingToDoError if another update than the agreed one is offered by now."""
    offer = offered(raw)["revision"]
    if offer != revision:
        raise NothingToDoError(f"update {revision} is no longer offered, but {offer}: look at that one first")
    return {"spec": {"rollout": {"acceptUpdate": revision}}}
