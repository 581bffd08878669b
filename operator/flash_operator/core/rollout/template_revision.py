"""The pod template that a deployment runs, stored unchanged together with its inputs.

A newer operator may render another template from the same spec: another default image, another text, another variable.
Engines must not restart for that, so the template in force is stored as a ControllerRevision, whose data the API server
does not let anyone change, and `core.rollout.engine_update` decides when a newer one is taken.

    a Deployment | the ControllerRevision of its template | the template in force
    ------------ | -------------------------------------- | ----------------------------------------------------
    none         | any                                    | none: the operator renders one
    exists       | exists                                 | the stored one
    exists       | missing: an operator before 0.2 wrote  | the last known good one, if the Deployment has it,
                 | it, or somebody deleted it             | else the live one
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from flash_contracts import CONTRACT_VERSION
from flash_contracts.flags import FlagSet
from flash_contracts.names import REVISION_ANNOTATION
from flash_contracts.redaction import REDACTED, redact, redact_arguments
from flash_contracts.secrets import is_secret_name
from flash_operator.api.v1alpha1 import FlashDeployment, FlashSpec
from flash_operator.core.observed.kube import entries_of, is_owned_by
from flash_operator.core.observed.snapshot import Observed, PlanSettings, RawObject
from flash_operator.core.resources.deployment import FALLBACK_FLAGS, pod_template
from flash_operator.core.resources.drift import is_superset
from flash_operator.core.resources.engine_resources import without_default_requests
from flash_operator.core.resources.gate_config import (
    default_gate_config_name,
    gate_config_name,
    is_own_gate_config,
    with_gate_config_name,
)
from flash_operator.core.resources.identity import metadata
from flash_operator.core.resources.revision import revision_of, revision_of_pod

KIND = "ControllerRevision"

NOT_IN_THE_TEMPLATE = {"replicas", "scaling", "rollout", "operator_class"}
"""Fields of the spec that are not stored: they never change the template, and an autoscaler changes one often."""


@dataclass(frozen=True)
class TemplateRevision:
    """A pod template with what it was made from."""

    template: RawObject
    spec: RawObject | None
    """The spec at that time, without defaults; None if an earlier operator made it and the spec has changed since."""
    engine_image: str
    """The operator's default engine image at that time. `spec.engine.image` wins over it."""
    contract_version: int
    """Version of the documents between the operator and this template's engine image."""
    exact: bool = True
    """False if it was read from a Deployment, with the fields that the API server added."""

    @property
    def revision(self) -> str:
        return revision_of(self.template)

    @property
    def stored_spec(self) -> FlashSpec | None:
        """None if it is unknown, or this operator cannot read it: it lacks a field of the one that wrote it."""
        try:
            return None if self.spec is None else FlashSpec.stored(self.spec)
        except ValidationError:
            return None

    def to_object(self, flash: FlashDeployment) -> RawObject:
        """The ControllerRevision."""
        data = {
            "contractVersion": self.contract_version,
            "engineImage": self.engine_image,
            "exact": self.exact,
            "spec": self.spec,
            "template": self.template,
        }
        named = metadata(flash, object_name(flash, self.revision))
        return {"apiVersion": "apps/v1", "kind": KIND, "metadata": named, "revision": 1, "data": data}

    @classmethod
    def parse(cls, raw: RawObject) -> "TemplateRevision | None":
        """None if the object is not one that `to_object` makes."""
        try:
            data = raw["data"]
            made_with = str(data["engineImage"]), int(data["contractVersion"]), bool(data.get("exact", True))
            stored = cls(dict(data["template"]), data["spec"], *made_with)
            return stored if raw["metadata"]["name"].endswith(f"-{stored.revision}") else None
        except (KeyError, TypeError, ValueError):
            return None


def object_name(flash: FlashDeployment, revision: str) -> str:
    return f"{flash.name}-{revision}"


def render(flash: FlashDeployment, settings: PlanSettings, engine_image: str | None = None) -> TemplateRevision:
    """The template that this operator makes of the spec, with `engine_image` instead of its own default image."""
    image = engine_image or settings.engine_image
    template = pod_template(flash, replace(settings, engine_image=image))
    return TemplateRevision(template, _stored_spec(flash), image, CONTRACT_VERSION)


def stored_revision(observed: Observed, revision: str | None) -> TemplateRevision | None:
    """The revision of this name, if this deployment stored it."""
    raw = observed.children.get((KIND, object_name(observed.flash, revision or "")))
    if raw is None or not is_owned_by(raw, observed.flash.uid):
        return None
    return TemplateRevision.parse(raw)


def revision_in_force(observed: Observed, last_known_good: RawObject | None) -> TemplateRevision | None:
    """What the Deployment runs; None without a Deployment, or if its template is not one of ours."""
    live = observed.children.get(("Deployment", observed.flash.name))
    if live is None:
        return None
    in_status = (observed.live_status.get("rollout") or {}).get("revision")
    template = live.get("spec", {}).get("template") or {"metadata": {}}
    annotated = revision_of_pod(template)
    stored = stored_revision(observed, in_status) or stored_revision(observed, annotated)
    if stored or annotated is None or in_status not in (None, annotated):
        return stored
    return _adopted(observed, template, last_known_good)


def has_changed(flash: FlashDeployment, in_force: TemplateRevision, settings: PlanSettings) -> bool:
    """Whether the user has changed anything that the template depends on since `in_force` was made.

    Both specs are rendered by this operator, so that its own changes make no difference.
    """
    if in_force.spec == _stored_spec(flash):
        return False
    now = render(flash, settings, in_force.engine_image)
    if in_force.spec is None:
        # Operators that stored no spec requested nothing for the engine: that difference is ours.
        return not same_effect(without_default_requests(now.template, flash.spec), in_force.template)
    spec = in_force.stored_spec
    if spec is None:
        return now.spec != in_force.spec
    return render(flash.model_copy(update={"spec": spec}), settings, in_force.engine_image).revision != now.revision


def same_effect(one: RawObject, other: RawObject) -> bool:
    """Whether both templates start the same engine. The reasons of flags and names of revisions do not matter."""
    return one == other or _without_texts(one) == _without_texts(other)


def is_outdated(running: TemplateRevision, newest: TemplateRevision) -> bool:
    """Whether the newest template would start another engine than the running one."""
    if running.exact:
        return not same_effect(running.template, newest.template)
    return not is_superset(_without_texts(running.template), _without_texts(newest.template))


def changes_between(running: TemplateRevision, newest: TemplateRevision) -> tuple[str, ...]:
    """One line for each value that differs, such as `engine image: a -> b`."""
    one, other = _without_texts(running.template), _without_texts(newest.template)
    return value_changes(one, other, known_only=not running.exact)


def value_changes(one: RawObject, other: RawObject, *, known_only: bool = False) -> tuple[str, ...]:
    """One line for each value that differs. `known_only`: `one` may have fields that `other` leaves to defaults."""
    old, new = dict(_values(one)), dict(_values(other))
    known = tuple(new) if known_only else (*old, *(path for path in new if path not in old))
    paths = [path for path in known if old.get(path) != new.get(path)]
    return tuple(f"{path}: {_change(path, old.get(path), new.get(path))}" for path in paths)


def _change(path: str, old: Any, new: Any) -> str:
    """Of two commands, the arguments that differ: their beginnings are the same, and nobody compares them by eye."""
    if _are_words(old) and _are_words(new):
        gone, come = _only_in(old, new), _only_in(new, old)
        if gone or come:
            return f"{_shown(path, ' '.join(gone) or None)} -> {_shown(path, ' '.join(come) or None)}"
    return f"{_shown(path, old)} -> {_shown(path, new)}"


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _only_in(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """The words, without secrets: one of two words may be the name of the secret that the next one is."""
    return [shown for word, shown in zip(one, redact_arguments(one), strict=True) if word not in other]


def superseded(observed: Observed, kept_templates: Sequence[RawObject]) -> Iterator[tuple[str, str]]:
    """Kind and name of the stored revisions and gate configurations that nothing needs any more.

    Those of pods that still run are needed, and so are those of a Deployment that is about to be replaced.
    """
    flash = observed.flash
    live = (observed.children.get(("Deployment", flash.name)) or {}).get("spec", {}).get("template")
    kept: set[tuple[str, str]] = set()
    for pod in (*kept_templates, *observed.pods, *((live,) if live else ())):
        kept |= {(KIND, object_name(flash, revision_of_pod(pod) or "")), ("ConfigMap", gate_config_name(pod) or "")}
    for (kind, name), child in observed.children.items():
        of_one_template = name != default_gate_config_name(flash) and is_own_gate_config(flash, name)
        ours = kind == KIND or (kind == "ConfigMap" and of_one_template)
        if ours and (kind, name) not in kept and is_owned_by(child, flash.uid):
            yield kind, name


def _adopted(observed: Observed, live: RawObject, last_known_good: RawObject | None) -> TemplateRevision:
    """The template of an operator that stored no revisions, without the fields that the API server added."""
    known = last_known_good is not None and revision_of(last_known_good) == revision_of_pod(live)
    template = last_known_good if known and last_known_good else _without_nulls(live)
    rollout = observed.live_status.get("rollout") or {}
    current = observed.live_status.get("observedGeneration") == observed.flash.generation
    made_of_this_spec = current and rollout.get("state") != "RolledBack"
    spec = _stored_spec(observed.flash) if made_of_this_spec else None
    return TemplateRevision(template, spec, _default_image(template), contract_version=1, exact=known)


def _default_image(template: RawObject) -> str:
    """The gate's image: it is the engine's, and nobody has a reason to replace it in podTemplate."""
    containers = [*entries_of(template, "spec", "initContainers"), *entries_of(template, "spec", "containers")]
    return str(next((c for c in containers if c["name"] == "gate"), containers[0])["image"])


def _stored_spec(flash: FlashDeployment) -> RawObject:
    """Without defaults, so that a new field of a newer operator is no change."""
    return flash.spec.model_dump(by_alias=True, mode="json", exclude_defaults=True, exclude=NOT_IN_THE_TEMPLATE)


def _without_nulls(value: Any) -> Any:
    """The API server shows an unset time as null, and refuses it in an apply."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _without_texts(template: RawObject) -> RawObject:
    copy: RawObject = json.loads(json.dumps(template))
    (copy["metadata"].get("annotations") or {}).pop(REVISION_ANNOTATION, None)
    for container in entries_of(copy, "spec", "containers"):
        for variable in entries_of(container, "env"):
            if variable.get("name") == FALLBACK_FLAGS:
                variable["value"] = _effect(variable.get("value", ""))
    return with_gate_config_name(copy, "")


def _effect(text: str) -> str:
    try:
        flags = FlagSet.parse_text(text)
    except ValueError:
        return text
    return ", ".join(sorted(map(str, (*flags.arguments, *flags.variables.items(), *flags.unset))))


def _values(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its path. Items of lists are called by their name, and containers without their list."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _values(item, f"{path} {key}".removeprefix(" spec").removeprefix(" "))
    elif isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        owner = "" if path.endswith("ontainers") else path
        for item in value:
            rest = {key: part for key, part in item.items() if key != "name"}
            yield from _values(rest, f"{owner} {item['name']}".strip())
    else:
        yield path, value


SHOWN_LENGTH = 80


def _shown(path: str, value: Any) -> str:
    """Without secrets: a podTemplate of before they were refused may contain some."""
    if value is None:
        return "none"
    variable = re.search(r"(?:^| )env (\S+) value$", path)
    if variable and is_secret_name(variable[1]):
        return REDACTED
    words = redact_arguments(value) if _are_words(value) else value
    text = redact(words) if isinstance(words, str) else json.dumps(words, separators=(",", ":"))
    return text if len(text) <= SHOWN_LENGTH else f"{text[: SHOWN_LENGTH - 3]}..."
