"""`kubectl dsf rollback`: orders the operator to leave the template that the engines run for the one before."""

from dataclasses import dataclass

from flash_contracts.names import KIND, RETRY_ANNOTATION, ROLLBACK_ANNOTATION
from flash_contracts.orders import RollbackOrder
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.rollout.engine_update import FLAGS_PREFIX
from flash_operator.core.rollout.template_revision import TemplateRevision, changes_between
from flashctl.actions.order import (
    ActionDocument,
    NameArgument,
    NothingToDoError,
    WaitOption,
    YesOption,
    annotation,
    annotations_of,
    change,
    confirm,
    order_now,
    wait_for_answer,
)
from flashctl.actions.update import restarts
from flashctl.cluster import Cluster
from flashctl.errors import NoRightError
from flashctl.session import Session, on_cluster

REVISION_KIND = "ControllerRevision"


@dataclass(frozen=True)
class WayBack:
    """From the revision that is left to the one that is known to be good."""

    leave: str
    to: str


@on_cluster
def rollback(session: Session, *, name: NameArgument, yes: YesOption = False, wait: WaitOption = 60.0) -> None:
    """Go back to the template that was last known to be good before the one that the engines run now.

    The spec stays as it is, and is not tried again before it changes, or before `retry`.
    """
    raw = session.cluster.get(KIND, name)
    way = way_back(raw)
    changes = "".join(f"\n  {change}" for change in template_changes(session.cluster, raw, way))
    confirm(f"{name} goes back from {way.leave} to {way.to}:{changes}\n{restarts(raw)} Roll back?", yes=yes)
    namespace = raw["metadata"].get("namespace", "")
    ordered = change(session.cluster, KIND, name, namespace, lambda now: order_of(now, way))
    order = annotations_of(ordered)[ROLLBACK_ANNOTATION]
    answer = wait_for_answer(session.cluster, raw, "Rollback", order, wait) if wait else "ordered"
    message = (
        f"{name} goes back from {way.leave} to {way.to} ({answer}). The spec still asks for what was left: correct it, "
        f"or kubectl dsf retry {name} tries it again"
    )
    session.show(ActionDocument(namespace=namespace, name=name, action="rollback", message=message), message)


def way_back(raw: RawObject) -> WayBack:
    """Raises NothingToDoError, with the reason."""
    name = raw["metadata"]["name"]
    rollout = (raw.get("status") or {}).get("rollout") or {}
    now, good = rollout.get("revision"), rollout.get("provenRevision")
    if rollout.get("state") == "RolledBack":
        raise NothingToDoError(f"{name} is rolled back to {now} already: {rollout.get('message', '')}")
    update = (raw.get("status") or {}).get("update") or {}
    if update.get("state") == "Updating" and str(update.get("revision")).startswith(FLAGS_PREFIX):
        raise NothingToDoError(
            f"{name} takes update {update['revision']}, which changes flags and no template: it stops by itself if a "
            "replica fails or becomes slower"
        )
    if not now:
        raise NothingToDoError(f"{name} has no template yet: no operator has started its engines")
    if not good:
        raise NothingToDoError(f"no template of {name} has passed on all replicas yet, so there is none to go back to")
    earlier = good if good != now else rollout.get("previousRevision")
    if not earlier:
        raise NothingToDoError(f"no template is known that was good before {now}, which {name} runs")
    return WayBack(now, earlier)


def order_of(raw: RawObject, way: WayBack) -> RawObject:
    """The patch. Raises NothingToDoError if the agreed way back is another one by now."""
    now = way_back(raw)
    if now != way:
        raise NothingToDoError(f"by now it would go back from {now.leave} to {now.to}: run this again")
    known = annotations_of(raw)
    at = order_now(known.get(RETRY_ANNOTATION), known.get(ROLLBACK_ANNOTATION))
    return annotation(ROLLBACK_ANNOTATION, str(RollbackOrder(way.leave, at)))


def template_changes(cluster: Cluster, raw: RawObject, way: WayBack) -> tuple[str, ...]:
    """What differs between both; empty if the user may not read it."""
    found = []
    for revision in (way.leave, way.to):
        try:
            stored = cluster.find(
                REVISION_KIND, f"{raw['metadata']['name']}-{revision}", raw["metadata"].get("namespace")
            )
        except NoRightError:
            stored = None
        found.append(TemplateRevision.parse(stored) if stored else None)
    one, other = found
    return changes_between(one, other) if one and other else ()


def _stored(cluster: Cluster, metadata: RawObject, revision: str) -> TemplateRevision | None:
    try:
        stored = cluster.find(REVISION_KIND, f"{metadata['name']}-{revision}", metadata.get("namespace"))
    except NoRightError:
        return None
    return TemplateRevision.parse(stored) if stored else None
