"""Parses vLLM's counters from its /metrics.

Names as of vLLM 0.32 and 0.33 (v1/spec_decode/metrics.py, v1/metrics/loggers.py). prometheus_client appends `_total`
to a counter's name; other exporters may not, so both forms are accepted.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

GENERATED = "vllm:generation_tokens"
DRAFTED = "vllm:spec_decode_num_draft_tokens"
ACCEPTED = "vllm:spec_decode_num_accepted_tokens"
DRAFTS = "vllm:spec_decode_num_drafts"
ACCEPTED_PER_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos"
"""Has the label `position`, which counts from 0."""
FINISHED = "vllm:request_success"
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
STEPS = "vllm:iteration_tokens_total_count"
PROCESSED = "vllm:iteration_tokens_total_sum"
FIRST_TOKENS = "vllm:time_to_first_token_seconds_count"
DECODE_SECONDS = "vllm:inter_token_latency_seconds_sum"
LATENCIES = "vllm:inter_token_latency_seconds_bucket"
PREEMPTIONS = "vllm:num_preemptions"
KV_CACHE = "vllm:kv_cache_usage_perc"
OLDER_KV_CACHE = "vllm:gpu_cache_usage_perc"
OLDER_DECODE_SECONDS = "vllm:time_per_output_token_seconds_sum"
OLDER_LATENCIES = "vllm:time_per_output_token_seconds_bucket"
COUNTERS = (GENERATED, DRAFTED, ACCEPTED, DRAFTS, ACCEPTED_PER_POSITION, FINISHED, PREEMPTIONS)
GAUGES = (RUNNING, WAITING, KV_CACHE, OLDER_KV_CACHE)
PARTS = (STEPS, PROCESSED, FIRST_TOKENS, DECODE_SECONDS, OLDER_DECODE_SECONDS)
"""Parts of histograms. Like gauges, they have only one name."""

MOST_POSITIONS = 32
"""Tokens of a draft. vLLM has no label beyond that."""

Buckets = tuple[tuple[float, float], ...]
"""A histogram: the ascending upper bound of each bucket in seconds, and the number of observations up to it."""

NO_STATISTICS = (
    "it has no vLLM metrics at all. Remove --disable-log-stats from engine.extraArgs if it is set; otherwise "
    "engine.image is not vLLM, or something else answers /metrics in its place"
)
INCOMPLETE = "use an engine.image whose vLLM exports it, such as the operator's own"


class MissingMetricsError(RuntimeError):
    """The engine's metrics lack some that a verdict needs. The message names them."""


@dataclass(frozen=True)
class EngineCounters:
    """One reading of the counters, summed over all engines and models of the process."""

    generated: float
    running: float
    drafted: float | None
    """None if speculation is disabled, because the engine does not export the counter then."""
    accepted: float | None
    drafts: float | None = None
    """Steps with a draft."""
    accepted_per_position: tuple[float, ...] = ()
    """Accepted tokens by their position in the draft; empty if the engine does not export it."""
    waiting: float = 0
    waiting_is_known: bool = True
    """False if the engine does not export the number of waiting requests."""
    finished: float | None = None
    """Requests that have finished."""
    steps: float | None = None
    """Engine steps that produced a token for any request."""
    processed: float | None = None
    """Tokens processed in all steps, including those of prompts."""
    first_tokens: float | None = None
    decode_seconds: float | None = None
    """Time between tokens, summed over requests."""
    latencies: Buckets | None = None
    """The same times as a histogram, one for each step of each request. vLLM counts one when the step's tokens arrive,
    so it moves together with `generated`."""
    preemptions: float | None = None
    """Requests that lost their KV cache to others and are read again."""
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
            sums, latencies = _sums(text)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            # For text that is not a metrics page, the parser raises more than ValueError.
            raise MissingMetricsError(f"the engine's /metrics cannot be read: {error}") from error
        needed = {f"{GENERATED}_total": GENERATED, RUNNING: RUNNING}
        if DRAFTED in sums:
            # Without this counter, the acceptance could not be judged.
            needed[f"{ACCEPTED}_total"] = ACCEPTED
        missing = [exported for exported, name in needed.items() if name not in sums]
        if missing:
            has_others = any(line.startswith("vllm:") for line in text.splitlines())
            remedy = INCOMPLETE if has_others else NO_STATISTICS
            raise MissingMetricsError(f"the engine's /metrics lacks {', '.join(missing)}: {remedy}")
        return cls(
            generated=sums[GENERATED],
            running=sums[RUNNING],
            drafted=sums.get(DRAFTED),
            accepted=sums.get(ACCEPTED),
            drafts=sums.get(DRAFTS),
            accepted_per_position=tuple(_positions(sums)),
            waiting=sums.get(WAITING, 0),
            waiting_is_known=WAITING in sums,
            finished=sums.get(FINISHED),
            steps=sums.get(STEPS),
            processed=sums.get(PROCESSED),
            first_tokens=sums.get(FIRST_TOKENS),
            decode_seconds=sums.get(DECODE_SECONDS, sums.get(OLDER_DECODE_SECONDS)),
            latencies=_histogram(latencies.get(LATENCIES) or latencies.get(OLDER_LATENCIES)),
            preemptions=sums.get(PREEMPTIONS),
            kv_cache=sums.get(KV_CACHE, sums.get(OLDER_KV_CACHE)),
        )


_Latencies = dict[str, dict[float, float]]


def _sums(text: str) -> tuple[dict[str, float], _Latencies]:
    """Sums over all other labels, for counters (by name without suffix) and for buckets. Raises ValueError."""
    names = {name: name for name in (*COUNTERS, *GAUGES, *PARTS)} | {f"{name}_total": name for name in COUNTERS}
    sums: dict[str, float] = {}
    latencies: _Latencies = {}
    for family in text_string_to_metric_families(_relevant_lines(text, (*names, LATENCIES, OLDER_LATENCIES))):
        for sample in family.samples:
            if sample.name in names:
                name = names[sample.name]
                if name == ACCEPTED_PER_POSITION:
                    name = _at_position(sample.labels.get("position", ""))
                sums[name] = sums.get(name, 0) + _finite(sample.name, sample.value)
            elif sample.name in (LATENCIES, OLDER_LATENCIES):
                buckets, bound = latencies.setdefault(sample.name, {}), float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0) + _finite(sample.name, sample.value)
    return sums, latencies


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    return value


def _histogram(buckets: dict[float, float] | None) -> Buckets | None:
    return tuple(sorted(buckets.items())) if buckets else None


def _at_position(position: str | int) -> str:
    return f"{ACCEPTED_PER_POSITION}:{position}"


def _positions(sums: dict[str, float]) -> Iterator[float]:
    """The sums by position, up to the first gap."""
    for position in range(MOST_POSITIONS):
        accepted = sums.get(_at_position(position))
        if accepted is None:
            return
        yield accepted


def _relevant_lines(text: str, names: tuple[str, ...]) -> str:
    """Only the lines with these names: parsing the hundreds of others would take CPU time from the engine.

    If there are none, the whole text, so that a page without metrics is reported as such.
    """
    return "".join(f"{line}\n" for line in text.splitlines() if line.startswith(names)) or text
