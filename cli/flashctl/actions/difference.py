"""Compares a deployment as it is with what an apply would make of it, and says which engines restart. Pure."""

import json
from enum import StrEnum
from typing import Any

from pydantic import Field

from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import PlanSettings, RawObject
from flash_operator.core.rollout.engine_update import attempt_of_spec
from flash_operator.core.rollout.template_revision import (
    TemplateRevision,
    changes_between,
    has_changed,
    render,
    value_changes,
)
from flashctl.output import Document

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Effect(StrEnum):
    """What an apply would do to the engines."""

    NEW = "New"
    RESTARTS = "Restarts"
    WAITS = "Waits"
    NO_RESTART = "NoRestart"
    UNKNOWN = "Unknown"
    NOTHING = "Nothing"


class Difference(Document):
    """What an apply would change."""

    namespace: str
    name: str
    effect: Effect
    replicas: int
    """That run, or would be started."""
    spec: list[str] = Field(default_factory=list)
    """One line for each field of the spec that changes."""
    template: list[str] = Field(default_factory=list)
    """One line for each value of the engines' pods that changes."""
    update: str = ""
    """The engine update that would be taken too."""


def difference(
    live: FlashDeployment | None, wanted: FlashDeployment, status: RawObject, in_force: TemplateRevision | None
) -> Difference:
    """`in_force`: the template that the engines run; None if it is unknown."""
    named: dict[str, Any] = {"namespace": wanted.namespace, "name": wanted.name}
    if live is None:
        return Difference(**named, effect=Effect.NEW, replicas=wanted.spec.replicas)
    spec = list(value_changes(_spec(live), _spec(wanted)))
    if not spec:
        return Difference(**named, effect=Effect.NOTHING, replicas=live.spec.replicas)
    if in_force is None:
        has_started = bool((status.get("rollout") or {}).get("revision"))
        effect = Effect.UNKNOWN if has_started else Effect.NO_RESTART
        return Difference(**named, effect=effect, replicas=live.spec.replicas, spec=spec)
    settings = PlanSettings(engine_image=in_force.engine_image, quantiser_image="")
    changed = _is_tried(live, wanted, status) and has_changed(wanted, in_force, settings)
    update = _taken_update(live, wanted, status)
    return Difference(
        **named,
        effect=_effect(wanted, restarts=changed or bool(update) or _resumes(live, wanted, status)),
        replicas=live.spec.replicas,
        spec=spec,
        template=[*(_template_changes(live, wanted, in_force, settings) if changed else ()), *_changes_of(update)],
        update=update.get("revision", ""),
    )


def _effect(wanted: FlashDeployment, *, restarts: bool) -> Effect:
    if not restarts:
        return Effect.NO_RESTART
    return Effect.WAITS if wanted.spec.rollout.state == "Paused" else Effect.RESTARTS


def _is_tried(live: FlashDeployment, wanted: FlashDeployment, status: RawObject) -> bool:
    """What was rolled back is not tried again for a change that says nothing about it."""
    is_rejected = (status.get("rollout") or {}).get("state") == "RolledBack"
    return not is_rejected or attempt_of_spec(live) != attempt_of_spec(wanted)


def _resumes(live: FlashDeployment, wanted: FlashDeployment, status: RawObject) -> bool:
    """A rollout that was paused before all replicas had the template goes on."""
    rollout = status.get("rollout") or {}
    is_pending = rollout.get("revision") != rollout.get("provenRevision")
    return live.spec.rollout.state == "Paused" != wanted.spec.rollout.state and is_pending


def _spec(flash: FlashDeployment) -> RawObject:
    dumped: RawObject = flash.spec.model_dump(by_alias=True, mode="json", exclude_none=True)
    return dumped


def _template_changes(
    live: FlashDeployment, wanted: FlashDeployment, in_force: TemplateRevision, settings: PlanSettings
) -> tuple[str, ...]:
    """Both templates as this version renders them, so that only the user's changes count."""
    stored = in_force.stored_spec
    before = render(live.model_copy(update={"spec": stored}), settings) if stored else in_force
    return changes_between(before, render(wanted, settings))


def _taken_update(live: FlashDeployment, wanted: FlashDeployment, status: RawObject) -> dict[str, Any]:
    """The offered update, if the file accepts it, or is the first to let updates come by themselves."""
    update: dict[str, Any] = status.get("update") or {}
    offered = update.get("state") in ("Available", "Waiting")
    before, after = live.spec.rollout, wanted.spec.rollout
    is_paced = after.engine_updates == "Paced" != before.engine_updates
    return update if offered and (is_paced or after.accept_update == update.get("revision")) else {}


def _changes_of(update: dict[str, Any]) -> list[str]:
    return [str(change) for change in update.get("changes") or []]


def as_applied(live: RawObject, wanted: RawObject, taken: RawObject) -> RawObject:
    """The spec after the apply.

    A field that an earlier `kubectl apply` set and the file no longer has is removed by the next one, although a
    server-side apply (`taken`) keeps it: then it belongs to both.
    """
    text = (live["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    try:
        earlier = json.loads(text)["spec"] if text else None
    except (ValueError, KeyError, TypeError):
        earlier = None
    spec: RawObject = taken["spec"]
    return without_dropped(spec, earlier, wanted["spec"]) if isinstance(earlier, dict) else spec


def without_dropped(spec: RawObject, earlier: RawObject, wanted: RawObject) -> RawObject:
    """Without the fields of `earlier` that `wanted` lacks."""
    kept: RawObject = {}
    for key, value in spec.items():
        before, after = earlier.get(key), wanted.get(key)
        if key in earlier and key not in wanted:
            continue
        if isinstance(value, dict) and isinstance(before, dict) and isinstance(after, dict):
            kept[key] = without_dropped(value, before, after)
        else:
            kept[key] = value
    return kept


SAID: dict[Effect, str] = {
    Effect.NEW: "is new: {replicas} to start, with two GPUs each",
    Effect.RESTARTS: "RESTARTS its engines: {replicas}, one by one, rolled back if they fail or become slower",
    Effect.WAITS: "restarts no engine while spec.rollout.state is Paused, and then {replicas}, one by one",
    Effect.NO_RESTART: "restarts no engine",
    Effect.UNKNOWN: "may restart its engines ({replicas}): the template that they run is not stored",
    Effect.NOTHING: "does not change",
}


def text_of(found: Difference) -> str:
    """For people."""
    counted = f"{found.replicas} replica{'' if found.replicas == 1 else 's'}"
    lines = [f"{found.namespace}/{found.name} {SAID[found.effect].format(replicas=counted)}"]
    lines += [f"  takes engine update {found.update}"] if found.update else []
    lines += [f"  spec    {line}" for line in found.spec]
    lines += [f"  engine  {line}" for line in found.template]
    return "\n".join(lines)
