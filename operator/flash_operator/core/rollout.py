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
from flash_operator.core.observed import RawObject
from flash_operator.core.replica import Replica
from flash_operator.core.resources.identity import metadata
from flash_operator.core.revision import revision_of, revision_of_pod, with_revision

PROVEN_FILE = "proven.json"

LASTING_STARTS = 3
"""What came of so many starts is what comes of all."""


@dataclass(frozen=True)
class Proven:
    """The last template that all replicas passed with, and what they did."""

    revision: str
    template: RawObject
    decode_tokens_per_second: float

    @classmethod
    def read(cls, config_map: RawObject | None) -> "Proven | None":
        """None where there is none, or none that makes sense: then there is nothing to compare with."""
        try:
            raw = json.loads((config_map or {})["data"][PROVEN_FILE])
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
    proven: Proven | None
    rejected: str | None = None

    def to_status(self) -> RolloutStatus:
        return RolloutStatus(
            state=self.state,
            message=self.message[:4096],
            revision=revision_of(self.template),
            proven_revision=self.proven.revision if self.proven else None,
            proven_tokens_per_second=int(self.proven.decode_tokens_per_second) if self.proven else None,
            rejected=self.rejected,
        )


def decide(
    flash: FlashDeployment,
    wanted: RawObject,
    replicas: Sequence[Replica],
    proven: Proven | None,
    live: RolloutStatus | None,
) -> Rollout:
    """See the module. `wanted` is the template that the spec leads to, `live` what status said last time."""
    if proven is not None and proven.revision != revision_of(wanted):
        rejection = _rejection(flash, wanted, replicas, proven, live)
        if rejection:
            return rejection
    proven = _proven_by(wanted, replicas, flash.spec.replicas) or proven
    if proven is None:
        state, told = _progress(flash, "Settled", "no replica has proved its speed yet")
    elif proven.revision == revision_of(wanted):
        state, told = _progress(flash, "Settled", "all replicas are of the template that was asked for")
    else:
        told = f"replacing replicas one by one; those before decoded {proven.decode_tokens_per_second:.1f} tok/s"
        state, told = _progress(flash, "Rolling", told)
    return Rollout(wanted, state, told, proven)


def held(flash: FlashDeployment, live: RawObject, proven: Proven | None) -> Rollout:
    """The template of the Deployment as it is, while what the spec leads to has no checkpoint yet."""
    template = live["spec"]["template"]
    known = template if revision_of_pod(template) else with_revision(template)
    state, told = _progress(flash, "Settled", "replicas stay as they are until the MTP head is restored")
    return Rollout(known, state, told, proven)


def _rejection(
    flash: FlashDeployment, wanted: RawObject, replicas: Sequence[Replica], proven: Proven, live: RolloutStatus | None
) -> Rollout | None:
    """First of all: where there is one replica, a slow new one would else be the one to compare with."""
    key = _rejection_key(flash, wanted)
    if live and live.rejected == key:
        return Rollout(proven.template, "RolledBack", live.message, proven, key)
    new = [replica for replica in replicas if revision_of_pod(replica.pod) == revision_of(wanted)]
    objection = _objection(flash, new, proven)
    return Rollout(proven.template, "RolledBack", objection, proven, key) if objection else None


def proven_config(flash: FlashDeployment, proven: Proven) -> RawObject:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(flash, proven_name(flash)),
        "data": {PROVEN_FILE: json.dumps(proven.to_json(), indent=1, sort_keys=True)},
    }


def proven_name(flash: FlashDeployment) -> str:
    return f"{flash.name}-proven"


def _progress(
    flash: FlashDeployment, state: Literal["Settled", "Rolling"], told: str
) -> tuple[Literal["Settled", "Rolling", "Paused"], str]:
    if flash.spec.rollout.state == "Paused":
        return "Paused", f"paused by spec.rollout.state; {told}"
    return state, told


def _proven_by(wanted: RawObject, replicas: Sequence[Replica], count: int) -> Proven | None:
    """All replicas have the template and have passed. Its speed is that of the first time, and is not moved later."""
    revision = revision_of(wanted)
    speeds = [_speed(replica) for replica in replicas if revision_of_pod(replica.pod) == revision and replica.ready]
    known = [speed for speed in speeds if speed is not None]
    if not known or len(known) != len(replicas) or len(known) != count:
        return None
    return Proven(revision, wanted, round(median(known), 1))


def _objection(flash: FlashDeployment, new: Sequence[Replica], proven: Proven) -> str | None:
    for replica in new:
        verdict = replica.verdict
        if verdict.is_lasting or (verdict.is_of_a_start and _starts(replica) >= LASTING_STARTS):
            failed = f"{replica.name} failed with the new template: {verdict.reason}: {verdict.message}"
            return f"{failed}; the former one is back"
        speed, most = _speed(replica), flash.spec.rollout.max_slowdown_percent
        least = proven.decode_tokens_per_second * (1 - most / 100)
        if speed is not None and speed < least:
            return (
                f"{replica.name} decodes {speed:.1f} tok/s with the new template, {_slower(speed, proven):.0f} % "
                f"slower than the former one with {proven.decode_tokens_per_second:.1f}, and "
                f"rollout.maxSlowdownPercent is {most}; the former one is back"
            )
    return None


def _slower(speed: float, proven: Proven) -> float:
    return 100 * (1 - speed / proven.decode_tokens_per_second)


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
