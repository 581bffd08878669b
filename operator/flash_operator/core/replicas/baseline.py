"""What replicas did before, and the floor that follows for the next one like them.

Replicas are alike where the links of their nodes, the card, the image, the checkpoint and the engine's size are: then
they decode alike, and one that does not has something wrong with it that no fixed floor would show. The floor of a
class is the median of what its replicas did, less a tolerance. Each pod counts once, with the figures of its first
pass, so that a node that gets slower does not teach its own floor to.

Kept as JSON in a ConfigMap of its own: it outlives the operator, and `kubectl get` shows it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from flash_operator.api.v1alpha1 import DEFAULT_TOLERANCE_PERCENT, FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.engine_args import context_tokens, max_sequences
from flash_operator.core.resources.identity import metadata
from flash_operator.core.resources.model_source import ModelSource

BASELINE_FILE = "history.json"

LEAST_ENTRIES = 3
"""Of fewer, a median says nothing about the next one."""

MOST_ENTRIES = 20
MOST_CLASSES = 32
"""A ConfigMap holds 1 MiB; this is a tenth of it."""


@dataclass(frozen=True)
class Entry:
    """The first pass of one replica."""

    pod: str
    """Its uid."""
    decode_tokens_per_second: float
    at: str


@dataclass(frozen=True)
class Floor:
    """What a replica is held to, and why."""

    tokens_per_second: float
    told: str

    def to_annotation(self) -> str:
        return json.dumps({"minTokensPerSecond": self.tokens_per_second, "told": self.told}, separators=(",", ":"))


@dataclass(frozen=True)
class Baseline:
    """Entries by class, oldest first."""

    classes: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, config_map: RawObject | None) -> "Baseline":
        """What stands in the ConfigMap; whatever cannot be read is as good as not there."""
        try:
            raw = json.loads((config_map or {})["data"][BASELINE_FILE])
            return cls({name: tuple(_entry(entry) for entry in entries) for name, entries in raw["classes"].items()})
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls()

    def with_passes(self, flash: FlashDeployment, replicas: Iterable[Replica]) -> "Baseline":
        """Also those that passed and are not in it yet."""
        classes = dict(self.classes)
        for replica in replicas:
            name, entry = baseline_key(flash, replica), _pass_of(replica)
            if name is None or entry is None or any(entry.pod == known.pod for known in classes.get(name, ())):
                continue
            earlier = classes.pop(name, ())
            # Put last, so that what is cut off at the front is what nobody has been like for longest.
            classes[name] = (*earlier, entry)[-MOST_ENTRIES:]
        return Baseline(dict(list(classes.items())[-MOST_CLASSES:]))

    def floor(self, name: str, tolerance_percent: int | None) -> Floor:
        """0 while too little is known, so that the fixed floor holds and the gate need not wait."""
        entries, tolerance = self.classes.get(name, ()), tolerance_percent or DEFAULT_TOLERANCE_PERCENT
        if len(entries) < LEAST_ENTRIES:
            return Floor(0.0, f"{len(entries)} like it were measured, {LEAST_ENTRIES} are needed")
        middle = median(entry.decode_tokens_per_second for entry in entries)
        told = f"learned from {len(entries)} like it: median {middle:.1f}, less {tolerance} %"
        return Floor(round(middle * (1 - tolerance / 100), 1), told)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "classes": {
                name: [{"pod": e.pod, "decodeTokensPerSecond": e.decode_tokens_per_second, "at": e.at} for e in entries]
                for name, entries in self.classes.items()
            },
        }


def baseline_key(flash: FlashDeployment, replica: Replica) -> str | None:
    """Everything that speed depends on, readable; None while the kubelet has not resolved the image yet."""
    node, digest = replica.node, replica.image_digest
    if node is None or digest is None:
        return None
    spec = flash.spec
    drafts = spec.speculation.tokens if spec.speculation.method != "Disabled" else 0
    return " | ".join(
        (
            f"link={node.link} p2p={node.p2p} gpu={node.product or 'unknown'}",
            digest,
            f"{ModelSource(spec.model).uri}{'@' + spec.model.revision if spec.model.revision else ''}",
            f"{spec.engine.profile} context={context_tokens(spec.engine)} sequences={max_sequences(spec.engine)}",
            f"drafts={drafts}",
        )
    )


def baseline_config_map(flash: FlashDeployment, baseline: Baseline) -> RawObject:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(flash, baseline_name(flash)),
        "data": {BASELINE_FILE: json.dumps(baseline.to_json(), indent=1)},
    }


def baseline_name(flash: FlashDeployment) -> str:
    return f"{flash.name}-history"


def _entry(raw: Mapping[str, Any]) -> Entry:
    return Entry(str(raw["pod"]), float(raw["decodeTokensPerSecond"]), str(raw["at"]))


def _pass_of(replica: Replica) -> Entry | None:
    gate = replica.gate
    if gate is None or not gate.reached or not gate.passed or gate.measurement is None:
        return None
    return Entry(replica.uid, round(gate.measurement.decode_tokens_per_second, 1), gate.checked_at or "")
