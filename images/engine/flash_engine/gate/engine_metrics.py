"""vLLM's own counters, from its /metrics.

Names as of vLLM 0.32 and 0.33 (v1/spec_decode/metrics.py, v1/metrics/loggers.py). prometheus_client appends `_total`
to a counter's name; an exporter of another make may not, so both forms are known.
"""

import math
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

GENERATED = "vllm:generation_tokens"
DRAFTED = "vllm:spec_decode_num_draft_tokens"
ACCEPTED = "vllm:spec_decode_num_accepted_tokens"
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
COUNTERS = (GENERATED, DRAFTED, ACCEPTED)
GAUGES = (RUNNING, WAITING)


class MissingMetricsError(RuntimeError):
    """The engine's metrics lack what a verdict needs; the message names it."""


@dataclass(frozen=True)
class EngineCounters:
    """One look at the counters, summed over engines and models of the process."""

    generated: float
    running: float
    drafted: float | None
    """None where the engine has no speculation at all: it then does not export the counter."""
    accepted: float | None
    waiting: float = 0

    @property
    def unfinished(self) -> float:
        """Requests on the engine, running or waiting."""
        return self.running + self.waiting

    @classmethod
    def parse(cls, text: str) -> "EngineCounters":
        """Read the exposition format. Raises MissingMetricsError."""
        try:
            sums = _sums(text)
        except ValueError as error:
            raise MissingMetricsError(f"the engine's /metrics cannot be read: {error}") from error
        needed = {f"{GENERATED}_total": GENERATED, RUNNING: RUNNING}
        if DRAFTED in sums:
            # Drafts of which nobody knows whether they are accepted would pass unjudged.
            needed[f"{ACCEPTED}_total"] = ACCEPTED
        missing = [said for said, name in needed.items() if name not in sums]
        if missing:
            raise MissingMetricsError(f"the engine's /metrics lacks {', '.join(missing)}")
        return cls(
            generated=sums[GENERATED],
            running=sums[RUNNING],
            drafted=sums.get(DRAFTED),
            accepted=sums.get(ACCEPTED),
            waiting=sums.get(WAITING, 0),
        )


def _sums(text: str) -> dict[str, float]:
    """Sums over all labels, by the counters' names without suffix. Raises ValueError."""
    names = {name: name for name in (*COUNTERS, *GAUGES)} | {f"{name}_total": name for name in COUNTERS}
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in names:
                if not math.isfinite(sample.value):
                    raise ValueError(f"{sample.name} is {sample.value}")
                name = names[sample.name]
                sums[name] = sums.get(name, 0) + sample.value
    return sums
