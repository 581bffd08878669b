"""Is the new template as fast as the old one? A rollout that makes replicas slower is stopped, and taken back.

The Deployment replaces one replica at a time, and goes on once the new one was ready for a while. Meanwhile it is
compared with what the template before it did:

    new replicas                                              the Deployment gets
    --------------------------------------------------------  ------------------------------------------
    none yet, or on their way                                 the new template
    passed, at most `maxSlowdownPercent` slower               the new template
    passed, and slower than that                              the proven template again: RolledBack
    failed their gate, or their start again and again         the proven template again: RolledBack
    any, while the rollout is paused                          the new template, paused

A template is proven once all replicas have it and have passed; it is kept with its speed in a ConfigMap, for there may
be no old replica left to ask. A rejection holds until the template, the floors or `spec.rollout` change; scaling does
not try again.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from flash_operator.api.status import RolloutStatus
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.identity import metadata
from flash_operator.core.resources.revision import revision_of, revision_of_pod, with_revision

LAST_KNOWN_GOOD_FILE = "last_known_good.json"

LASTING_STARTS = 3
"""What came of so many starts is what comes of all."""


@dataclass(frozen=True)
class LastKnownGood:
    """The last template that all replicas passed with, and what they did."""

    revision: str
    template: RawObject
    decode_tokens_per_second: float

    @classmethod
    def read(cls, config_map: RawObject | None) -> "LastKnownGood | None":
        """None where there is none, or none that makes sense: then there is nothing to compare with."""
        try:
            raw = json.loads((config_map or {})["data"][LAST_KNOWN_GOOD_FILE])
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
    """What the Deployment gets, and what status tells."""

    template: RawObject
    state: Literal["Settled", "Rolling", "Paused", "RolledBack"]
    message: str
    last_known_good: LastKnownGood | None
    rejected: str | None = None

    def to_status(self) -> RolloutStatus:
        return RolloutStatus(
            state=self.state,
            message=self.message[:4096],
            revision=revision_of(self.template),
            proven_revision=self.last_known_good.revision if self.last_known_good else None,
            proven_tokens_per_second=int(self.last_known_good.decode_tokens_per_second)
            if self.last_known_good
            else None,
            rejected=self.rejected,
        )


def decide(
    flash: FlashDeployment,
    wanted: RawObject,
    replicas: Sequence[Replica],
    last_known_good: LastKnownGood | None,
    live: RolloutStatus | None,
) -> Rollout:
    """See the module. `wanted` is the template that the spec leads to, `live` what status said last time."""
    if last_known_good is not None and last_known_good.revision != revision_of(wanted):
        rejection = _rejection(flash, wanted, replicas, last_known_good, live)
        if rejection:
            return rejection
    last_known_good = _newly_proven(wanted, replicas, flash.spec.replicas) or last_known_good
    if last_known_good is None:
        state, told = _progress(flash, "Settled", "no replica has proved its speed yet")
    elif last_known_good.revision == revision_of(wanted):
        state, told = _progress(flash, "Settled", "all replicas are of the template that was asked for")
    else:
        told = (
            f"replacing replicas one by one; those before decoded {last_known_good.decode_tokens_per_second:.1f} tok/s"
        )
        state, told = _progress(flash, "Rolling", told)
    return Rollout(wanted, state, told, last_known_good)


def held(flash: FlashDeployment, live: RawObject, last_known_good: LastKnownGood | None) -> Rollout:
    """The template of the Deployment as it is, while what the spec leads to has no checkpoint yet."""
    template = live["spec"]["template"]
    known = template if revision_of_pod(template) else with_revision(template)
    state, told = _progress(flash, "Settled", "replicas stay as they are until the MTP head is restored")
    return Rollout(known, state, told, last_known_good)


def _rejection(
    flash: FlashDeployment,
    wanted: RawObject,
    replicas: Sequence[Replica],
    last_known_good: LastKnownGood,
    live: RolloutStatus | None,
) -> Rollout | None:
    """First of all: where there is one replica, a slow new one would else be the one to compare with."""
    key = _rejection_key(flash, wanted)
    if live and live.rejected == key:
        return Rollout(last_known_good.template, "RolledBack", live.message, last_known_good, key)
    new = [replica for replica in replicas if revision_of_pod(replica.pod) == revision_of(wanted)]
    objection = _objection(flash, new, last_known_good)
    return Rollout(last_known_good.template, "RolledBack", objection, last_known_good, key) if objection else None


def last_known_good_config_map(flash: FlashDeployment, last_known_good: LastKnownGood) -> RawObject:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(flash, last_known_good_name(flash)),
        "data": {LAST_KNOWN_GOOD_FILE: json.dumps(last_known_good.to_json(), indent=1, sort_keys=True)},
    }


def last_known_good_name(flash: FlashDeployment) -> str:
    return f"{flash.name}-proven"


def _progress(
    flash: FlashDeployment, state: Literal["Settled", "Rolling"], told: str
) -> tuple[Literal["Settled", "Rolling", "Paused"], str]:
    if flash.spec.rollout.state == "Paused":
        return "Paused", f"paused by spec.rollout.state; {told}"
    return state, told


def _newly_proven(wanted: RawObject, replicas: Sequence[Replica], count: int) -> LastKnownGood | None:
    """All replicas have the template and have passed. Its speed is that of the first time, and is not moved later."""
    revision = revision_of(wanted)
    speeds = [_speed(replica) for replica in replicas if revision_of_pod(replica.pod) == revision and replica.ready]
    known = [speed for speed in speeds if speed is not None]
    if not known or len(known) != len(replicas) or len(known) != count:
        return None
    return LastKnownGood(revision, wanted, round(median(known), 1))


def _objection(flash: FlashDeployment, new: Sequence[Replica], last_known_good: LastKnownGood) -> str | None:
    for replica in new:
        verdict = replica.verdict
        if verdict.is_lasting or (verdict.is_of_a_start and _starts(replica) >= LASTING_STARTS):
            failed = f"{replica.name} failed with the new template: {verdict.reason}: {verdict.message}"
            return f"{failed}; the former one is back"
        speed, most = _speed(replica), flash.spec.rollout.max_slowdown_percent
        least = last_known_good.decode_tokens_per_second * (1 - most / 100)
        if speed is not None and speed < least:
            return (
                f"{replica.name} decodes {speed:.1f} tok/s with the new template, "
                f"{_slower(speed, last_known_good):.0f} % slower than the former one with "
                f"{last_known_good.decode_tokens_per_second:.1f}, and "
                f"rollout.maxSlowdownPercent is {most}; the former one is back"
            )
    return None


def _slower(speed: float, last_known_good: LastKnownGood) -> float:
    return 100 * (1 - speed / last_known_good.decode_tokens_per_second)


def _speed(replica: Replica) -> float | None:
    gate = replica.gate
    return gate.measurement.decode_tokens_per_second if gate and gate.passed and gate.measurement else None


def _starts(replica: Replica) -> int:
    """Of the engine, or of what fetches its model before."""
    gate = replica.gate
    return max(gate.engine.starts, gate.delivery.attempts if gate.delivery else 0) if gate else 0


def _rejection_key(flash: FlashDeployment, wanted: RawObject) -> str:
    """What has to change for another try."""
    spec = flash.spec
    judged_by = [spec.readiness.model_dump(mode="json"), spec.rollout.max_slowdown_percent]
    text = json.dumps([revision_of(wanted), judged_by], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
