"""The decode speeds of earlier replicas, and the floor that they set for the next comparable one.

Replicas are comparable if the links of their nodes, the GPU and its power limit, the image, the checkpoint, the flags
and everything else that the engine is started with are the same. They should then decode equally fast, and one that
does not has a fault that no fixed floor would show. The floor of a class is the median of its replicas' speeds, less a
tolerance. Each pod counts once, with the figures of its first pass, so that a node that gets slower does not lower its
own floor.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from flash_operator.api.v1alpha1 import DEFAULT_TOLERANCE_PERCENT, EngineSpec, FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.engine_args import context_tokens, max_sequences
from flash_operator.core.resources.model_source import ModelSource
from flash_operator.core.resources.stored_document import StoredDocument

STORED_BASELINE = StoredDocument("baseline", former_names=("baseline", "history"))

MIN_ENTRIES = 3
"""A median of fewer says nothing about the next replica."""

MAX_ENTRIES = 20
MAX_CLASSES = 32
"""A ConfigMap holds 1 MiB; this is a tenth of it."""


@dataclass(frozen=True)
class BaselineEntry:
    """The first pass of one replica."""

    pod: str
    """The pod's uid."""
    decode_tokens_per_second: float
    at: str


@dataclass(frozen=True)
class Floor:
    """A learned decode floor, and how it was derived."""

    tokens_per_second: float
    explanation: str


NO_FLOOR = Floor(0.0, "")
"""The fixed floor holds."""


@dataclass(frozen=True)
class Baseline:
    """Entries by class of comparable replicas, oldest first."""

    classes: Mapping[str, tuple[BaselineEntry, ...]] = field(default_factory=dict)

    @classmethod
    def stored(cls, observed: Observed) -> "Baseline":
        """The baseline of this deployment, empty before any replica has passed."""
        return cls.parse(STORED_BASELINE.read(observed))

    @classmethod
    def parse(cls, text: str | None) -> "Baseline":
        """An unreadable document counts as an empty one."""
        try:
            raw = json.loads(text or "{}")
            return cls({name: tuple(_entry(entry) for entry in entries) for name, entries in raw["classes"].items()})
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls()

    def with_passes(self, flash: FlashDeployment, replicas: Iterable[Replica]) -> "Baseline":
        """Adds the replicas that have passed and have no entry yet."""
        classes = dict(self.classes)
        for replica in replicas:
            name, entry = baseline_key(flash, replica), _first_pass(replica)
            if name is None or entry is None or any(entry.pod == known.pod for known in classes.get(name, ())):
                continue
            earlier = classes.pop(name, ())
            # Re-inserted at the end, so that the classes cut off at the front are those unused for longest.
            classes[name] = (*earlier, entry)[-MAX_ENTRIES:]
        return Baseline(dict(list(classes.items())[-MAX_CLASSES:]))

    def floor(self, name: str, tolerance_percent: int | None) -> Floor:
        """The floor of a class. 0 with too few entries, so that the fixed floor applies and the gate need not wait."""
        entries, tolerance = self.classes.get(name, ()), tolerance_percent or DEFAULT_TOLERANCE_PERCENT
        if len(entries) < MIN_ENTRIES:
            return Floor(0.0, f"not learned yet: {len(entries)} of {MIN_ENTRIES} comparable replicas measured")
        middle = median(entry.decode_tokens_per_second for entry in entries)
        explanation = f"learned from {len(entries)} comparable replicas: median {middle:.1f} less {tolerance} %"
        return Floor(round(middle * (1 - tolerance / 100), 1), explanation)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "classes": {
                name: [{"pod": e.pod, "decodeTokensPerSecond": e.decode_tokens_per_second, "at": e.at} for e in entries]
                for name, entries in self.classes.items()
            },
        }


def baseline_key(flash: FlashDeployment, replica: Replica) -> str | None:
    """The class of a replica: everything that its speed depends on.

    None until the kubelet has resolved the image and the flags are known.
    """
    node, digest, flags = replica.node, replica.image_digest, replica.effective_flags or replica.derived
    if node is None or digest is None or flags is None:
        return None
    spec = flash.spec
    speculation = spec.speculation
    drafts = "none" if speculation.method == "Disabled" else f"{speculation.method}:{speculation.drafted_tokens}"
    return " | ".join(
        (
            node.speed_class,
            digest,
            f"{ModelSource(spec.model).uri}{'@' + spec.model.revision if spec.model.revision else ''}",
            f"{spec.engine.profile} context={context_tokens(spec.engine)} sequences={max_sequences(spec.engine)}",
            f"drafts={drafts}",
            f"flags={_digest(sorted(flags.spelled))} engine={_digest(_started_with(spec.engine))}",
        )
    )


def _started_with(engine: EngineSpec) -> list[Any]:
    """What the user adds to the engine: `--enforce-eager` halves its speed."""
    variables = sorted((variable.name, variable.value) for variable in engine.extra_env)
    return [engine.extra_args, variables, engine.batched_tokens, engine.memory_percent]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]


def baseline_config_map(flash: FlashDeployment, baseline: Baseline) -> RawObject:
    return STORED_BASELINE.config_map(flash, json.dumps(baseline.to_json(), indent=1))


def _entry(raw: Mapping[str, Any]) -> BaselineEntry:
    return BaselineEntry(str(raw["pod"]), float(raw["decodeTokensPerSecond"]), str(raw["at"]))


def _first_pass(replica: Replica) -> BaselineEntry | None:
    gate = replica.gate
    if gate is None or not gate.reached or not gate.passed or gate.measurement is None:
        return None
    return BaselineEntry(replica.uid, round(gate.measurement.decode_tokens_per_second, 1), gate.checked_at or "")
