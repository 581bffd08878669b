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
FINISHED = "vllm:request_success"
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
STEPS = "vllm:iteration_tokens_total_count"
PROCESSED = "vllm:iteration_tokens_total_sum"
FIRST_TOKENS = "vllm:time_to_first_token_seconds_count"
DECODE_SECONDS = "vllm:inter_token_latency_seconds_sum"
KV_CACHE = "vllm:kv_cache_usage_perc"
OLDER_KV_CACHE = "vllm:gpu_cache_usage_perc"
OLDER_DECODE_SECONDS = "vllm:time_per_output_token_seconds_sum"
COUNTERS = (GENERATED, DRAFTED, ACCEPTED, FINISHED)
GAUGES = (RUNNING, WAITING, KV_CACHE, OLDER_KV_CACHE)
PARTS = (STEPS, PROCESSED, FIRST_TOKENS, DECODE_SECONDS, OLDER_DECODE_SECONDS)
"""Of histograms; like gauges they have no other name."""


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
    finished: float | None = None
    """Requests that ended."""
    steps: float | None = None
    """Steps of the engine that gave somebody a token."""
    processed: float | None = None
    """Tokens of all steps, those of prompts included."""
    first_tokens: float | None = None
    decode_seconds: float | None = None
    """Time between tokens, summed over requests."""
    kv_cache: float | None = None
    """Share of the KV cache in use. It grows while a long prompt is read, and nothing else moves for minutes."""

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
            finished=sums.get(FINISHED),
            steps=sums.get(STEPS),
            processed=sums.get(PROCESSED),
            first_tokens=sums.get(FIRST_TOKENS),
            decode_seconds=sums.get(DECODE_SECONDS, sums.get(OLDER_DECODE_SECONDS)),
            kv_cache=sums.get(KV_CACHE, sums.get(OLDER_KV_CACHE)),
        )


def _sums(text: str) -> dict[str, float]:
    """Sums over all labels, by the counters' names without suffix. Raises ValueError."""
    names = {name: name for name in (*COUNTERS, *GAUGES, *PARTS)} | {f"{name}_total": name for name in COUNTERS}
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(_told_by(text, tuple(names))):
        for sample in family.samples:
            if sample.name in names:
                if not math.isfinite(sample.value):
                    raise ValueError(f"{sample.name} is {sample.value}")
                name = names[sample.name]
                sums[name] = sums.get(name, 0) + sample.value
    return sums


def _told_by(text: str, names: tuple[str, ...]) -> str:
    """The lines with these names alone: parsing the hundreds of others would take CPU from the engine.

    The whole text where there is none, so that a page that is no metrics at all is told as such.
    """
    return "".join(f"{line}\n" for line in text.splitlines() if line.startswith(names)) or text
