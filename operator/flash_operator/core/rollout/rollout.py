"""Decides which pod template the Deployment gets: a rollout that makes replicas slower or breaks them is rolled back.

The Deployment controller replaces one replica at a time and continues once the new one has been ready for a while.
Meanwhile the new replicas are compared with what the last known good template achieved:

    new replicas                                              the Deployment gets
    --------------------------------------------------------  --------------------------------------------
    none yet, or still starting                               the new template
    passed, at most `maxSlowdownPercent` slower               the new template
    passed, but slower than that                              the last known good template: RolledBack
    failed their gate, or failed to start repeatedly          the last known good template: RolledBack
    any, while the rollout is paused                          the new template, paused

A template is known to be good once all replicas have it and have passed. It is stored with its speed in a ConfigMap,
because there may be no old replica left to compare with. A rejection holds until the template, the floors or
`spec.rollout` change; scaling does not cause another attempt.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from flash_operator.api.status import RolloutStatus
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.revision import revision_of, revision_of_pod, with_revision
from flash_operator.core.resources.stored_document import StoredDocument

STORED_LAST_KNOWN_GOOD = StoredDocument("last-known-good", former_name="proven")

MAX_STARTS = 3
"""After this many failed starts, the next one is expected to fail too."""


@dataclass(frozen=True)
class LastKnownGood:
    """The last template with which all replicas passed, and their median speed."""

    revision: str
    template: RawObject
    decode_tokens_per_second: float

    @classmethod
    def stored(cls, observed: Observed) -> "LastKnownGood | None":
        """The last known good template of this deployment, None before the first one."""
        return cls.parse(STORED_LAST_KNOWN_GOOD.read(observed))

    @classmethod
    def parse(cls, text: str | None) -> "LastKnownGood | None":
        """None if the document is missing or unreadable: then there is nothing to compare with."""
        try:
            raw = json.loads(text or "{}")
            return cls(str(raw["revision"]), dict(raw["template"]), float(raw["decodeTokensPerSecond"]))
        except (KeyError, TypeError, ValueError):
            return None

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "revision": self.revision,
            "decodeTokensPerSecond": self.decode_tokens_per_second,
            "template": self.template,
        }


@dataclass(frozen=True)
class Rollout:
    """The template for the Deployment, and the state of the rollout for status."""

    template: RawObject
    state: Literal["Settled", "Rolling", "Paused", "RolledBack"]
    message: str
    last_known_good: LastKnownGood | None
    rejected: str | None = None

    def to_status(self) -> RolloutStatus:
        good = self.last_known_good
        return RolloutStatus(
            state=self.state,
            message=self.message[:4096],
            revision=revision_of(self.template),
            proven_revision=good.revision if good else None,
            proven_tokens_per_second=int(good.decode_tokens_per_second) if good else None,
            rejected=self.rejected,
        )


def decide_rollout(
    flash: FlashDeployment,
    wanted: RawObject,
    replicas: Sequence[Replica],
    last_known_good: LastKnownGood | None,
    live: RolloutStatus | None,
) -> Rollout:
    """Choose the template. `wanted` is the one that the spec asks for, `live` the rollout in the CR's live status."""
    if last_known_good is not None and last_known_good.revision != revision_of(wanted):
        # Rejection is checked first: with a single replica, a slow new one would otherwise become the last known good.
        rejection = _rejection(flash, wanted, replicas, last_known_good, live)
        if rejection:
            return rejection
    last_known_good = _newly_known_good(wanted, replicas, flash.spec.replicas) or last_known_good
    if last_known_good is None:
        state, message = _progress(flash, "Settled", "no template has passed on all replicas yet")
    elif last_known_good.revision == revision_of(wanted):
        state, message = _progress(flash, "Settled", "all replicas run the requested template")
    else:
        speed = last_known_good.decode_tokens_per_second
        state, message = _progress(
            flash, "Rolling", f"replacing replicas one by one; the previous template decoded {speed:.1f} tok/s"
        )
    return Rollout(wanted, state, message, last_known_good)


def keep_live_template(flash: FlashDeployment, live: RawObject, last_known_good: LastKnownGood | None) -> Rollout:
    """The live Deployment's template, while the checkpoint that the spec asks for is still being restored."""
    template = live["spec"]["template"]
    with_its_revision = template if revision_of_pod(template) else with_revision(template)
    state, message = _progress(flash, "Settled", "replicas are left unchanged until the MTP head is restored")
    return Rollout(with_its_revision, state, message, last_known_good)


def last_known_good_config_map(flash: FlashDeployment, last_known_good: LastKnownGood) -> RawObject:
    return STORED_LAST_KNOWN_GOOD.config_map(flash, json.dumps(last_known_good.to_json(), indent=1, sort_keys=True))


def _rejection(
    flash: FlashDeployment,
    wanted: RawObject,
    replicas: Sequence[Replica],
    last_known_good: LastKnownGood,
    live: RolloutStatus | None,
) -> Rollout | None:
    key = _rejection_key(flash, wanted)
    if live and live.rejected == key:
        return Rollout(last_known_good.template, "RolledBack", live.message, last_known_good, key)
    new = [replica for replica in replicas if revision_of_pod(replica.pod) == revision_of(wanted)]
    objection = _objection(flash, new, last_known_good)
    return Rollout(last_known_good.template, "RolledBack", objection, last_known_good, key) if objection else None


def _progress(
    flash: FlashDeployment, state: Literal["Settled", "Rolling"], message: str
) -> tuple[Literal["Settled", "Rolling", "Paused"], str]:
    if flash.spec.rollout.state == "Paused":
        return "Paused", f"paused by spec.rollout.state; {message}"
    return state, message


def _newly_known_good(wanted: RawObject, replicas: Sequence[Replica], count: int) -> LastKnownGood | None:
    """The template, once all replicas have it and have passed. The first speed counts and is not updated later."""
    revision = revision_of(wanted)
    speeds = [_speed(replica) for replica in replicas if revision_of_pod(replica.pod) == revision and replica.ready]
    known = [speed for speed in speeds if speed is not None]
    if not known or len(known) != len(replicas) or len(known) != count:
        return None
    return LastKnownGood(revision, wanted, round(median(known), 1))


def _objection(flash: FlashDeployment, new: Sequence[Replica], last_known_good: LastKnownGood) -> str | None:
    for replica in new:
        verdict = replica.verdict
        if verdict.is_lasting or (verdict.may_clear_on_restart and _starts(replica) >= MAX_STARTS):
            failure = f"{replica.name} failed with the new template: {verdict.reason}: {verdict.message}"
            return f"{failure}; rolled back to the previous template"
        speed, limit = _speed(replica), flash.spec.rollout.max_slowdown_percent
        least = last_known_good.decode_tokens_per_second * (1 - limit / 100)
        if speed is not None and speed < least:
            return (
                f"{replica.name} decodes {speed:.1f} tok/s with the new template, "
                f"{_slower(speed, last_known_good):.0f} % slower than the previous one's "
                f"{last_known_good.decode_tokens_per_second:.1f}; "
                f"rollout.maxSlowdownPercent is {limit}; rolled back to the previous template"
            )
    return None


def _slower(speed: float, last_known_good: LastKnownGood) -> float:
    return 100 * (1 - speed / last_known_good.decode_tokens_per_second)


def _speed(replica: Replica) -> float | None:
    gate = replica.gate
    return gate.measurement.decode_tokens_per_second if gate and gate.passed and gate.measurement else None


def _starts(replica: Replica) -> int:
    """Starts of the engine, or attempts to download its model, whichever is more."""
    gate = replica.gate
    return max(gate.engine.starts, gate.delivery.attempts if gate.delivery else 0) if gate else 0


def _rejection_key(flash: FlashDeployment, wanted: RawObject) -> str:
    """A hash of everything whose change allows another attempt."""
    spec = flash.spec
    judged_by = [spec.readiness.model_dump(mode="json"), spec.rollout.max_slowdown_percent]
    text = json.dumps([revision_of(wanted), judged_by], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
