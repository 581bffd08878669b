"""Decides whether a deployment takes an engine update: what this operator would start, and what does not run yet.

A new default image, another text or variable of a newer operator, and flags that a node's labels now call for, restart
nothing. They are offered, and taken when the user says so:

    the user has changed | the operator would start | spec.rollout              | target               | state
    -------------------- | ------------------------ | ------------------------- | -------------------- | ----------
    the template         | any                      | acceptUpdate is not it    | the spec's, with the | UpToDate or
                         |                          |                           | image in force       | Available
    nothing              | the same as runs         | any                       | what runs            | UpToDate
    nothing              | something else           | Manual                    | what runs            | Available
    nothing              | something else           | acceptUpdate names it     | the new one          | Updating
    nothing              | something else           | Paced, not its turn       | what runs            | Waiting
    nothing              | something else           | Paced, and its turn       | the new one          | Updating
    nothing              | something else           | taken, but slower         | what ran             | Rejected

Paced lets one deployment at a time in the whole cluster take its update, and only one of which all replicas are ready
(`holds_turn`, `runtime.update_turn`). Each operator class has a turn of its own. A new template goes through a rollout
with all its checks. Outdated flags need only new pods, so their replicas are replaced one by one
(`core.rollout.flags_update`).
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flash_contracts import CONTRACT_VERSION
from flash_operator.api.status import RolloutStatus, UpdateStatus
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.kube import is_terminating
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.rollout.flags_update import NOTHING, FlagsUpdate, end_surge, take_flags
from flash_operator.core.rollout.orders import holds, is_retried, with_retry
from flash_operator.core.rollout.rollout import LastKnownGood, Rollout, Target
from flash_operator.core.rollout.template_revision import (
    NOT_IN_THE_TEMPLATE,
    TemplateRevision,
    changes_between,
    has_changed,
    is_outdated,
    render,
    stored_revision,
)

SHOWN_CHANGES = 12
FLAGS_PREFIX = "flags-"


@dataclass(frozen=True)
class Offer:
    """An update that may be taken."""

    id: str
    """What `spec.rollout.acceptUpdate` must be."""
    changes: tuple[str, ...]

    @property
    def of_flags(self) -> bool:
        """The template is up to date: only flags are outdated."""
        return self.id.startswith(FLAGS_PREFIX)


@dataclass(frozen=True)
class EngineUpdate:
    """The update of one deployment, and the template that its Deployment should get."""

    observed: Observed
    replicas: tuple[Replica, ...]
    in_force: TemplateRevision | None

    @property
    def _flash(self) -> FlashDeployment:
        return self.observed.flash

    @cached_property
    def _live(self) -> UpdateStatus:
        raw = self.observed.live_status.get("update")
        return UpdateStatus.model_validate(raw) if raw else UpdateStatus()

    @cached_property
    def newest(self) -> TemplateRevision:
        """What this operator would start."""
        inputs = self._flash, self.observed.settings
        return self._stored(self.observed.remembered.result("newest template", inputs, lambda: render(*inputs)))

    @cached_property
    def user_changed(self) -> bool:
        """The user asks for another template than the one in force."""
        return self.in_force is not None and has_changed(self._flash, self.in_force, self.observed.settings)

    @cached_property
    def base(self) -> TemplateRevision:
        """What the spec asks for, without the update."""
        if self.in_force is None:
            return self.newest
        if not self.user_changed:
            return self.in_force
        if self.in_force.contract_version != CONTRACT_VERSION:
            return self.newest
        return self._stored(render(self._flash, self.observed.settings, self.in_force.engine_image))

    def _stored(self, made: TemplateRevision) -> TemplateRevision:
        """The data of a ControllerRevision cannot change, so one with the same template stays as it is."""
        return stored_revision(self.observed, made.revision) or made

    @cached_property
    def offer(self) -> Offer | None:
        """None if what the spec asks for is what this operator would start."""
        if is_outdated(self.base, self.newest):
            return Offer(self.newest.revision, changes_between(self.base, self.newest))
        if not self._outdated or self.user_changed:
            return None
        changes = tuple(
            f"flags of {replica.name}: the labels of node {replica.node_name} now call for {_flags_of(replica)}"
            for replica in self._outdated
        )
        # Not of the nodes, so that the offer is the same however many replicas have taken it.
        wanted = sorted({_flags_of(replica) for replica in self._outdated})
        return Offer(f"{FLAGS_PREFIX}{_digest(wanted)}", changes)

    @cached_property
    def taken(self) -> bool:
        """Whether the offer is taken: the user accepted it, or it is this deployment's turn."""
        if self.offer is None or self._flags_rejected:
            return False
        accepted = self._flash.spec.rollout.accept_update
        if accepted == self.offer.id or (self.offer.of_flags and self._flags_under_way):
            return True
        rejected = holds((self.observed.live_status.get("rollout") or {}).get("rejected"), self._attempt(self.offer))
        return self._is_paced and (rejected or self._has_turn)

    @property
    def _is_paced(self) -> bool:
        return self._flash.spec.rollout.engine_updates == "Paced"

    @property
    def _has_turn(self) -> bool:
        """A deployment that is not whole would block all others, so it does not begin."""
        begins = self._live.state == "Updating" or self._all_ready
        return begins and self.observed.update_holder == self._flash.key

    @property
    def _flags_rejected(self) -> bool:
        """These flags were taken, and made a replica slower, or fail."""
        offer = self.offer
        return offer is not None and offer.of_flags and holds(self._live.rejected, self._attempt(offer))

    @property
    def judges_flags(self) -> bool:
        """New flags are being judged by the last known good figures, or were rejected by them."""
        return self._flags_under_way or self._flags_rejected

    @property
    def _flags_under_way(self) -> bool:
        """Flags are being taken: with each replica that has them, the offer changes."""
        return self._live.state == "Updating" and self._live.revision.startswith(FLAGS_PREFIX)

    @property
    def _all_ready(self) -> bool:
        return len(self.replicas) == self._flash.spec.replicas and all(replica.ready for replica in self.replicas)

    @cached_property
    def _outdated(self) -> tuple[Replica, ...]:
        return tuple(replica for replica in self.replicas if replica.flags_outdated)

    @cached_property
    def takes_template(self) -> bool:
        return self.taken and self.offer is not None and not self.offer.of_flags

    @cached_property
    def target(self) -> Target:
        """The template for the Deployment, before the rollout judges it."""
        if self.takes_template and self.offer and not self.user_changed:
            return Target(self.newest.template, self._attempt(self.offer), is_update=True)
        if self._continues:
            return Target(self.base.template, _attempt_of_update(self._flash, self._live.revision), is_update=True)
        wanted = self.newest if self.takes_template else self.base
        return Target(wanted.template, attempt_of_spec(self._flash))

    @property
    def _continues(self) -> bool:
        """The template in force is an update whose rollout is not over."""
        in_force = self.in_force.revision if self.in_force else None
        return self._live.state == "Updating" and self._live.revision == in_force and not self.user_changed

    def _attempt(self, offer: Offer) -> str:
        return _attempt_of_update(self._flash, offer.id)

    def known(self, revisions: Iterable[str]) -> tuple[TemplateRevision, ...]:
        """The revisions with these names, each once. Stored ones stay as they are."""
        made = {known.revision: known for known in (self.newest, self.base, self.in_force) if known is not None}
        found = (stored_revision(self.observed, name) or made.get(name) for name in dict.fromkeys(revisions))
        return tuple(revision for revision in found if revision is not None)

    @property
    def takes_flags(self) -> bool:
        return self.taken and not self.takes_template

    def next_flags(self, last_known_good: LastKnownGood | None, template: RawObject, *, may_surge: bool) -> FlagsUpdate:
        """The next step of an update of flags. Nothing before the status says that it is taken."""
        if self.takes_flags and self._flags_under_way:
            return take_flags(self.observed, self.replicas, last_known_good, template, may_surge=may_surge)
        return end_surge(self.observed, self.replicas) if may_surge else NOTHING

    def status(self, rollout: Rollout, flags: FlagsUpdate = NOTHING) -> UpdateStatus:
        """For the CR's status. What was rejected is kept, so that it is not taken again."""
        offer = self.offer
        rejected = self._attempt(offer) if offer and flags.objection else self._live.rejected
        return self._status(rollout, flags).model_copy(update={"rejected": rejected})

    def _status(self, rollout: Rollout, flags: FlagsUpdate) -> UpdateStatus:
        offer = self.offer
        if offer and (flags.objection or self._flags_rejected):
            known = self._live.message if self._live.state == "Rejected" else "it was rejected before"
            message, changes = (flags.objection or known), _shown_changes(offer)
            return UpdateStatus(state="Rejected", revision=offer.id, message=message[:4096], changes=changes)
        if offer is None or (offer.of_flags and self._flags_under_way):
            return self._under_way(rollout)
        changes = _shown_changes(offer)
        if self.taken:
            return self._taken(offer, changes, rollout)
        message = f"to take it, set spec.rollout.acceptUpdate to {offer.id}, or spec.rollout.engineUpdates to Paced"
        if self._is_paced:
            message = self._why_it_waits()
        return UpdateStatus(
            state="Waiting" if self._is_paced else "Available", revision=offer.id, message=message, changes=changes
        )

    def _under_way(self, rollout: Rollout) -> UpdateStatus:
        if rollout.is_update and rollout.state == "RolledBack":
            return self._live.model_copy(update={"state": "Rejected", "message": rollout.message})
        rolling = self._continues and rollout.state in ("Rolling", "Paused")
        if rolling or (self._flags_under_way and not (self._all_ready and not self._outdated)):
            return self._live
        return UpdateStatus()

    def _taken(self, offer: Offer, changes: list[str], rollout: Rollout) -> UpdateStatus:
        if rollout.state == "RolledBack" and rollout.is_update:
            return UpdateStatus(state="Rejected", revision=offer.id, message=rollout.message, changes=changes)
        message = "replicas are replaced one by one"
        return UpdateStatus(state="Updating", revision=offer.id, message=message, changes=changes)

    def _why_it_waits(self) -> str:
        if not self._all_ready:
            return "waiting until all replicas are ready"
        holder = self.observed.update_holder
        return f"waiting for {holder}, which is taking its update" if holder else "waiting for its turn"


def may_update(flash: FlashDeployment, live_status: RawObject) -> bool:
    """Whether the next plan may take an update, by the last status."""
    live = live_status.get("update") or {}
    if live.get("state") == "Updating" or is_retried(flash, live_status):
        return True
    if flash.spec.rollout.engine_updates == "Paced":
        whole = live_status.get("readyReplicas") == live_status.get("replicas") == flash.spec.replicas
        return whole and live.get("state") in ("Available", "Waiting")
    return live.get("state") == "Available" and live.get("revision") == flash.spec.rollout.accept_update


def holds_turn(raw: RawObject) -> bool:
    """Whether the others wait for this DeepSeekFlashDeployment to finish its update.

    One whose replicas do not become ready keeps the turn, so that a bad update stops at one deployment. One that its
    user has paused, or that is being deleted, would make everybody else wait for that user.
    """
    update = (raw.get("status") or {}).get("update") or {}
    rollout = (raw.get("spec") or {}).get("rollout") or {}
    return update.get("state") == "Updating" and rollout.get("state") != "Paused" and not is_terminating(raw)


def attempt_of_spec(flash: FlashDeployment) -> str:
    """Names an attempt to run what the spec asks for: everything whose change allows another one.

    Made of the spec and not of the template, so that an upgrade of the operator is no reason to try again.
    """
    spec = flash.spec.model_dump(by_alias=True, mode="json", exclude_defaults=True, exclude=NOT_IN_THE_TEMPLATE)
    rollout = flash.spec.rollout
    return with_retry(f"spec-{_digest([spec, rollout.max_slowdown_percent, rollout.accept_update])}", flash.orders)


def _attempt_of_update(flash: FlashDeployment, offer: str) -> str:
    readiness = flash.spec.readiness.model_dump(by_alias=True, mode="json", exclude_defaults=True)
    return with_retry(f"update-{_digest([offer, readiness, flash.spec.rollout.max_slowdown_percent])}", flash.orders)


def live_rollout(observed: Observed, target: Target) -> RolloutStatus | None:
    """The rollout in the live status. A rejection by an operator before 0.2 holds until the spec changes."""
    raw = observed.live_status.get("rollout")
    if not raw:
        return None
    live = RolloutStatus.model_validate(raw)
    former = live.rejected is not None and not live.rejected.startswith(("spec-", "update-"))
    if former and observed.live_status.get("observedGeneration") == observed.flash.generation:
        return live.model_copy(update={"rejected": target.attempt})
    return live


def _shown_changes(offer: Offer) -> list[str]:
    changes = list(offer.changes[:SHOWN_CHANGES])
    if len(offer.changes) > SHOWN_CHANGES:
        changes.append(f"and {len(offer.changes) - SHOWN_CHANGES} more")
    return changes


def _flags_of(replica: Replica) -> str:
    return " ".join(replica.derived.spelled) if replica.derived and replica.derived.spelled else "no flags"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
