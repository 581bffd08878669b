"""Parses vLLM's counters from its /metrics.

Names as of vLLM 0.32 and 0.33 (v1/spec_decode/metrics.py, v1/metrics/loggers.py). prometheus_client appends `_total`
to a counter's name; other exporters may not, so both forms are accepted.
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
"""Parts of histograms. Like gauges, they have only one name."""


class MissingMetricsError(RuntimeError):
    """The engine's metrics lack what a verdict needs. The message names it."""


@dataclass(frozen=True)
class EngineCounters:
    """One reading of the counters, summed over all engines and models of the process."""

    generated: float
    running: float
    drafted: float | None
    """None if speculation is disabled: the engine does not export the counter then."""
    accepted: float | None
    waiting: float = 0
    finished: float | None = None
    """Requests that have finished."""
    steps: float | None = None
    """Engine steps that produced a token for any request."""
    processed: float | None = None
    """Tokens processed in all steps, including those of prompts."""
    first_tokens: float | None = None
    decode_seconds: float | None = None
    """Time between tokens, summed over requests."""
    kv_cache: float | None = None
    """Share of the KV cache in use. During the prefill of a long prompt, nothing else changes for minutes."""

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
            # Without this counter, the acceptance could not be judged.
            needed[f"{ACCEPTED}_total"] = ACCEPTED
        missing = [exported for exported, name in needed.items() if name not in sums]
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
    for family in text_string_to_metric_families(_relevant_lines(text, tuple(names))):
        for sample in family.samples:
            if sample.name in names:
                if not math.isfinite(sample.value):
                    raise ValueError(f"{sample.name} is {sample.value}")
                name = names[sample.name]
                sums[name] = sums.get(name, 0) + sample.value
    return sums


def _relevant_lines(text: str, names: tuple[str, ...]) -> str:
    """The lines with these names only: parsing the hundreds of others would take CPU time from the engine.

    The whole text if there are none, so that a page that is not metrics is reported as such.
    """
    return "".join(f"{line}\n" for line in text.splitlines() if line.startswith(names)) or text
