"""Decides which pod template the Deployment gets: a rollout that makes replicas slower or breaks them is rolled back.

The Deployment controller replaces one replica at a time and continues once the new one has been ready for a while.
Meanwhile the new replicas are compared with what the last known good template achieved:

    new replicas                                              the Deployment gets
    --------------------------------------------------------  --------------------------------------------
    none yet, or still starting                               the new template
    passed, at most `maxSlowdownPercent` slower               the new template
    passed, but slower than that in two measurements          the last known good template: RolledBack
    too slow for their floor in one measurement               the new template; the gate measures again
    too slow for their floor in two                           the last known good template: RolledBack
    hung or out of memory on a node where none ran before     the new template: it may be the node's fault
    failed their gate, or failed to start repeatedly          the last known good template: RolledBack
    any, and a user ordered a rollback (`rollout.orders`)     the last known good template: RolledBack
    any, while the rollout is paused                          the new template, paused

The gate makes the second measurement of a replica that passed but is slower (`rollback_speed`), before it is ready. One
that does not know that speed, because it is of an earlier operator, makes only one.

Like is compared with like: the speed on a node with that of the earlier replica there, else with that of nodes of the
same link, verdict, GPU, power limit and slots. A node that is like none of them is judged by the floors alone.

A template is known to be good once all replicas have it and have passed. It is stored with its speed in a ConfigMap,
because there may be no old replica left to compare with. A rejection holds until the spec changes, or for an engine
update until another one is taken; neither scaling nor an upgrade of the operator causes another attempt.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Literal

from flash_contracts.verdict_reason import Reason
from flash_operator.api.status import RolloutStatus
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.revision import computed_revision, revision_of, revision_of_pod, with_revision
from flash_operator.core.resources.stored_document import StoredDocument
from flash_operator.core.rollout.orders import holds, ordered_rollback
from flash_operator.core.rollout.template_revision import TemplateRevision, stored_revision

STORED_LAST_KNOWN_GOOD = StoredDocument("last-known-good", former_names=("proven",))

BY_NODE, BY_CLASS = "decodeTokensPerSecondByNode", "decodeTokensPerSecondByClass"

MAX_STARTS = 3
"""After this many failed starts, the next one is expected to fail too."""

MEASURED_AGAIN = frozenset(
    {
        Reason.TOO_SLOW,
        Reason.FIRST_TOKEN_TOO_SLOW,
        Reason.PREFILL_TOO_SLOW,
        Reason.TOO_SLOW_AT_DEPTH,
        Reason.ACCEPTANCE_TOO_LOW,
    }
)
MIN_MEASUREMENTS = 2
"""A busy neighbour may cause one bad figure. The gate measures again every `retrySeconds`."""

MAY_BE_THE_NODE = frozenset({Reason.STARTUP_HANG, Reason.OUT_OF_MEMORY})
"""A broken link, or a neighbour that uses the memory, causes these with any template."""


@dataclass(frozen=True)
class LastKnownGood:
    """The last template with which all replicas passed, and their speeds."""

    revision: str
    template: RawObject
    decode_tokens_per_second: float
    """The median."""
    by_node: Mapping[str, float] = field(default_factory=dict)
    by_class: Mapping[str, float] = field(default_factory=dict)
    """The median on nodes that should be equally fast (`NodeFacts.speed_class`)."""
    previous: "LastKnownGood | None" = None
    """The one before, for a user who orders a rollback although all replicas passed."""

    def after(self, earlier: "LastKnownGood | None") -> "LastKnownGood":
        """With the earlier one to go back to. New figures of the same template change nothing about that."""
        if earlier is None:
            return self
        is_same = earlier.revision == self.revision
        return replace(self, previous=earlier.previous if is_same else replace(earlier, previous=None))

    def comparable_speed(self, replica: Replica) -> float | None:
        """What `replica` would decode with this template; None if it ran on no such node."""
        if not self.by_node:  # written by an operator before 0.2
            return self.decode_tokens_per_second
        speed_class = replica.node.speed_class if replica.node else ""
        return self.by_node.get(replica.node_name or "") or self.by_class.get(speed_class)

    def ran_on(self, node: str | None) -> bool:
        """Whether it passed on this node, so that the node is not the cause of a later failure."""
        return not self.by_node or node in self.by_node

    @classmethod
    def stored(cls, observed: Observed) -> "LastKnownGood | None":
        """The last known good template of this deployment, None before the first one.

        Users may edit a ConfigMap, so its template counts only if the status vouches for it: otherwise whoever edits it
        could make the operator run another image, or a pod with another service account.
        """
        document = cls.parse(STORED_LAST_KNOWN_GOOD.read(observed))
        if document is None:
            return None
        previous = document.previous and _with_stored_template(observed, document.previous)
        document = replace(document, previous=previous)
        stored = _with_stored_template(observed, document)
        if stored is not None:
            return stored
        vouched = (observed.live_status.get("rollout") or {}).get("provenRevision")
        return document if vouched == document.revision == computed_revision(document.template) else None

    @classmethod
    def parse(cls, text: str | None) -> "LastKnownGood | None":
        """None if the document is missing or unreadable: then there is nothing to compare with."""
        try:
            raw = json.loads(text or "{}")
            previous = raw.get("previous")
            return replace(cls._of(raw), previous=cls._of({**previous, "template": {}}) if previous else None)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> "LastKnownGood":
        by_node, by_class = ({str(k): float(v) for k, v in raw.get(key, {}).items()} for key in (BY_NODE, BY_CLASS))
        return cls(str(raw["revision"]), dict(raw["template"]), float(raw["decodeTokensPerSecond"]), by_node, by_class)

    def to_json(self) -> dict[str, Any]:
        """The template of the previous one is only in its ControllerRevision."""
        previous = {"previous": self.previous.figures} if self.previous else {}
        return {"version": 1, **self.figures, **previous, "template": self.template}

    @property
    def figures(self) -> dict[str, Any]:
        """Everything but the template."""
        return {
            "revision": self.revision,
            "decodeTokensPerSecond": self.decode_tokens_per_second,
            BY_NODE: dict(self.by_node),
            BY_CLASS: dict(self.by_class),
        }


def _with_stored_template(observed: Observed, good: LastKnownGood) -> LastKnownGood | None:
    """With the template of its ControllerRevision; None if there is none."""
    stored = stored_revision(observed, good.revision)
    return replace(good, template=stored.template) if stored else None


@dataclass(frozen=True)
class Target:
    """The template that the Deployment should get, if its replicas are as fast as the previous ones."""

    template: RawObject
    attempt: str
    """Names this attempt: a rejection holds as long as it is the same."""
    is_update: bool = False
    """It is an engine update, and not what the user changed (`core.rollout.engine_update`)."""

    @property
    def revision(self) -> str:
        return revision_of(self.template)


@dataclass(frozen=True)
class Rollout:
    """The template for the Deployment, and the state of the rollout for status."""

    template: RawObject
    state: Literal["Settled", "Rolling", "Paused", "RolledBack"]
    message: str
    last_known_good: LastKnownGood | None
    rejected: str | None = None
    is_update: bool = False
    made_from: TemplateRevision | None = None
    """Where the template comes from, if that is known."""

    def to_status(self) -> RolloutStatus:
        good = self.last_known_good
        return RolloutStatus(
            state=self.state,
            message=self.message[:4096],
            revision=revision_of(self.template),
            engine_image=self.made_from.engine_image if self.made_from else None,
            contract_version=self.made_from.contract_version if self.made_from else None,
            proven_revision=good.revision if good else None,
            proven_tokens_per_second=int(good.decode_tokens_per_second) if good else None,
            previous_revision=good.previous.revision if good and good.previous else None,
            rejected=self.rejected,
        )


def decide_rollout(
    flash: FlashDeployment,
    target: Target,
    replicas: Sequence[Replica],
    last_known_good: LastKnownGood | None,
    live: RolloutStatus | None,
    *,
    keeps_figures: bool = False,
) -> Rollout:
    """Choose the template. `live` is the rollout in the CR's live status.

    `keeps_figures`: while new flags are judged by the last known good figures, those of replicas with the same template
    do not replace them.
    """
    if last_known_good is not None and last_known_good.revision == target.revision and last_known_good.previous:
        is_left = ordered_rollback(flash, target.revision) is not None
        last_known_good = last_known_good.previous if is_left else last_known_good
    if last_known_good is not None and last_known_good.revision != target.revision:
        # Rejection is checked first: with a single replica, a slow new one would otherwise become the last known good.
        rejection = _rejection(flash, target, replicas, last_known_good, live)
        if rejection:
            return rejection
    is_same = last_known_good is not None and last_known_good.revision == target.revision
    if not (is_same and keeps_figures):
        newly = _newly_known_good(target.template, replicas, flash.spec.replicas)
        last_known_good = newly.after(last_known_good) if newly else last_known_good
    if last_known_good is None:
        state, message = _progress(flash, "Settled", "no template has passed on all replicas yet")
    elif last_known_good.revision == target.revision:
        state, message = _progress(flash, "Settled", "all replicas run the requested template")
    else:
        speed = last_known_good.decode_tokens_per_second
        state, message = _progress(
            flash, "Rolling", f"replacing replicas one by one; the previous template decoded {speed:.1f} tok/s"
        )
    return Rollout(target.template, state, message, last_known_good, is_update=target.is_update)


def keep_live_template(
    flash: FlashDeployment, live: RawObject, last_known_good: LastKnownGood | None, *, until: str
) -> Rollout:
    """The live Deployment's template, while the one that the spec asks for cannot be used."""
    template = live["spec"]["template"]
    with_its_revision = template if revision_of_pod(template) else with_revision(template)
    state, message = _progress(flash, "Settled", f"replicas are left unchanged until {until}")
    return Rollout(with_its_revision, state, message, last_known_good)


def last_known_good_config_map(flash: FlashDeployment, last_known_good: LastKnownGood) -> RawObject:
    return STORED_LAST_KNOWN_GOOD.config_map(flash, json.dumps(last_known_good.to_json(), indent=1, sort_keys=True))


def _rejection(
    flash: FlashDeployment,
    target: Target,
    replicas: Sequence[Replica],
    last_known_good: LastKnownGood,
    live: RolloutStatus | None,
) -> Rollout | None:
    rejected, order = target.attempt, ordered_rollback(flash, target.revision)
    if live and live.rejected and holds(live.rejected, target.attempt):
        objection: str | None = live.message
        # Not the attempt's name, so that the retry that it names is not carried out again.
        rejected = live.rejected
    elif flash.spec.rollout.state == "Paused":
        return None
    elif order:
        objection = f"rolled back to the previous template by a user's order of {order.at}"
    else:
        new = [replica for replica in replicas if revision_of_pod(replica.pod) == target.revision]
        objection = _objection(flash, new, last_known_good)
    if objection is None:
        return None
    template = last_known_good.template
    return Rollout(template, "RolledBack", objection, last_known_good, rejected, is_update=target.is_update)


def _progress(
    flash: FlashDeployment, state: Literal["Settled", "Rolling"], message: str
) -> tuple[Literal["Settled", "Rolling", "Paused"], str]:
    if flash.spec.rollout.state == "Paused":
        return "Paused", f"paused by spec.rollout.state; {message}"
    return state, message


def _newly_known_good(wanted: RawObject, replicas: Sequence[Replica], count: int) -> LastKnownGood | None:
    """The template with the present figures, once all replicas have it and have passed."""
    revision = revision_of(wanted)
    ours = [replica for replica in replicas if revision_of_pod(replica.pod) == revision and replica.ready]
    known = [(replica, speed) for replica in ours if (speed := _speed(replica)) is not None]
    if not known or len(known) != len(replicas) or len(known) != count:
        return None
    by_class: dict[str, list[float]] = {}
    for replica, speed in known:
        if replica.node:
            by_class.setdefault(replica.node.speed_class, []).append(speed)
    return LastKnownGood(
        revision,
        wanted,
        round(median(speed for _, speed in known), 1),
        {replica.node_name: round(speed, 1) for replica, speed in known if replica.node_name},
        {name: round(median(speeds), 1) for name, speeds in by_class.items()},
    )


def _objection(flash: FlashDeployment, new: Sequence[Replica], last_known_good: LastKnownGood) -> str | None:
    limit = flash.spec.rollout.max_slowdown_percent
    for replica in new:
        objection = objection_to(replica, last_known_good, limit, "the new template", spares_nodes=True)
        if objection:
            return f"{objection}; rolled back to the previous template"
    return None


def objection_to(
    replica: Replica, last_known_good: LastKnownGood | None, limit: int, made_with: str, *, spares_nodes: bool
) -> str | None:
    """Why this new replica speaks against what it was made with; None if it does not, or not yet.

    `spares_nodes`: what may be the fault of a node where none ran before is no objection.
    """
    spared = spares_nodes and last_known_good is not None and not last_known_good.ran_on(replica.node_name)
    failure = _failure(replica, made_with, spares_node=spared)
    return failure or (_slowdown(replica, last_known_good, limit, made_with) if last_known_good else None)


def _failure(replica: Replica, made_with: str, *, spares_node: bool) -> str | None:
    verdict = replica.verdict
    if not (verdict.is_lasting or (verdict.may_clear_on_restart and _starts(replica) >= MAX_STARTS)):
        return None
    if verdict.reason in MEASURED_AGAIN and replica.gate and replica.gate.attempts < MIN_MEASUREMENTS:
        return None
    if verdict.reason in MAY_BE_THE_NODE and spares_node:
        return None
    return f"{replica.name} failed with {made_with}: {verdict.reason}: {verdict.message}"


def _slowdown(replica: Replica, last_known_good: LastKnownGood, limit: int, made_with: str) -> str | None:
    speed, before = _speed(replica), last_known_good.comparable_speed(replica)
    if speed is None or before is None or speed >= _slowest_allowed(before, limit):
        return None
    slower = f"{100 * (1 - speed / before):.0f} % slower than the previous one's {before:.1f}"
    figures = f"{replica.name} decodes {speed:.1f} tok/s with {made_with}, {slower}"
    return f"{figures}; rollout.maxSlowdownPercent is {limit}"


def rollback_speed(
    flash: FlashDeployment, replica: Replica, last_known_good: LastKnownGood | None, *, updates_flags: bool
) -> float | None:
    """The decode speed below which this new replica causes a rollback; None if nothing is compared."""
    if last_known_good is None or replica.node is None or replica.ready:
        return None
    if revision_of_pod(replica.pod) in (None, last_known_good.revision) and not updates_flags:
        return None
    before = last_known_good.comparable_speed(replica)
    if before is None:
        return None
    # Rounded up: a speed between the two would be measured once only.
    return math.ceil(100 * _slowest_allowed(before, flash.spec.rollout.max_slowdown_percent)) / 100


def _slowest_allowed(before: float, limit: int) -> float:
    return before * (1 - limit / 100)


def _speed(replica: Replica) -> float | None:
    """None also if the gate did not answer just now: status has its figures in whole numbers, which decide nothing."""
    gate = replica.gate
    is_known = gate is not None and gate.reached and gate.passed
    return gate.measurement.decode_tokens_per_second if gate and is_known and gate.measurement else None


def _starts(replica: Replica) -> int:
    """Starts of the engine, or attempts to download its model, whichever is more."""
    gate = replica.gate
    return max(gate.engine.starts, gate.delivery.attempts if gate.delivery else 0) if gate else 0
