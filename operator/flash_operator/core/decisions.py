"""Decisions that several parts of a plan depend on, each computed once from the observed state."""

from dataclasses import dataclass, replace
from functools import cached_property

from flash_operator.core.mtp_restore.planner import MtpRestore, mtp_restore_of
from flash_operator.core.observed.pod_failure import PodFailure
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.replicas.baseline import Baseline
from flash_operator.core.replicas.replica import Replica, replicas_of
from flash_operator.core.resources.pod_template_check import why_refused
from flash_operator.core.resources.revision import revision_of
from flash_operator.core.rollout.engine_update import EngineUpdate, live_rollout
from flash_operator.core.rollout.flags_update import NOTHING, FlagsUpdate
from flash_operator.core.rollout.rollout import (
    LastKnownGood,
    Rollout,
    decide_rollout,
    keep_live_template,
)
from flash_operator.core.rollout.template_revision import TemplateRevision, revision_in_force
from flash_operator.core.scaling.outcome import ScalingOutcome


@dataclass(frozen=True)
class Decisions:
    """Decisions that several parts of a plan depend on, each computed once."""

    observed: Observed

    @cached_property
    def replicas(self) -> tuple[Replica, ...]:
        return replicas_of(self.observed)

    @cached_property
    def scaling(self) -> ScalingOutcome:
        return ScalingOutcome.of(self.observed, self.replicas)

    @cached_property
    def mtp_restore(self) -> MtpRestore | None:
        return mtp_restore_of(self.observed)

    @property
    def held(self) -> bool:
        """The checkpoint that the spec asks for is not restored yet, or its podTemplate contradicts what a replica is.

        The Deployment is left unchanged.
        """
        return self.refused_template is not None or self._is_restoring

    @property
    def _is_restoring(self) -> bool:
        return self.mtp_restore is not None and not self.mtp_restore.done

    @cached_property
    def refused_template(self) -> PodFailure | None:
        """A template that runs already is not refused: a newer operator with stricter checks stops no engine."""
        is_new = self.update.in_force is None or self.update.user_changed
        return why_refused(self.observed.flash.spec) if is_new else None

    @property
    def live_deployment(self) -> RawObject | None:
        return self.observed.children.get(("Deployment", self.observed.flash.name))

    @cached_property
    def last_known_good(self) -> LastKnownGood | None:
        return LastKnownGood.stored(self.observed)

    @cached_property
    def update(self) -> EngineUpdate:
        good = self.last_known_good
        in_force = revision_in_force(self.observed, good.template if good else None)
        return EngineUpdate(self.observed, self.replicas, in_force)

    @cached_property
    def rollout(self) -> Rollout:
        decided = self._decided_rollout()
        made_from = self.update.known((revision_of(decided.template),))
        return replace(decided, made_from=made_from[0] if made_from else None)

    def _decided_rollout(self) -> Rollout:
        flash, target = self.observed.flash, self.update.target
        if self.live_deployment and self.held:
            why = "podTemplate is corrected" if self.refused_template else "the MTP head is restored"
            return keep_live_template(flash, self.live_deployment, self.last_known_good, until=why)
        live = live_rollout(self.observed, target)
        keeps_figures = self.update.judges_flags
        return decide_rollout(flash, target, self.replicas, self.last_known_good, live, keeps_figures=keeps_figures)

    @cached_property
    def flags_update(self) -> FlagsUpdate:
        """What to do about replicas with outdated flags, if the user takes the update."""
        if self.held:
            return NOTHING
        may_surge = not self.scaling.decision.follows_deployment
        return self.update.next_flags(self.last_known_good, self.rollout.template, may_surge=may_surge)

    @cached_property
    def revisions(self) -> tuple[TemplateRevision, ...]:
        """The templates to keep: the one in force, the last known good one, and the one before that."""
        good = self.rollout.last_known_good
        known = [one.revision for one in (good, good.previous if good else None) if one is not None]
        return self.update.known((revision_of(self.rollout.template), *known))

    @property
    def keeps_baseline(self) -> bool:
        """A fixed floor needs none; once it is learned, the replicas that run then are its first entries."""
        return self.observed.flash.spec.readiness.floor == "Learned" and bool(self.baseline.classes)

    @cached_property
    def baseline(self) -> Baseline:
        return Baseline.stored(self.observed).with_passes(self.observed.flash, self.replicas)
