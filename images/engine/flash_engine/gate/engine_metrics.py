"""vLLM's own counters, from its /metrics.

Names as of vLLM 0.32 and 0.33 (v1/spec_decode/metrics.py, v1/metrics/loggers.py). The parser of prometheus_client
gives samples of a counter with the suffix `_total`.
"""

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

GENERATED = "vllm:generation_tokens_total"
DRAFTED = "vllm:spec_decode_num_draft_tokens_total"
ACCEPTED = "vllm:spec_decode_num_accepted_tokens_total"
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
NEEDED = (GENERATED, RUNNING)


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

    @classmethod
    def parse(cls, text: str) -> "EngineCounters":
        """Read the exposition format. Raises MissingMetricsError."""
        sums = _sums(text)
        missing = [name for name in NEEDED if name not in sums]
        if missing:
            raise MissingMetricsError(f"the engine's /metrics lacks {', '.join(missing)}")
        return cls(
            generated=sums[GENERATED],
            running=sums[RUNNING] + sums.get(WAITING, 0),
            drafted=sums.get(DRAFTED),
            accepted=sums.get(ACCEPTED),
        )


def _sums(text: str) -> dict[str, float]:
    wanted = {GENERATED, DRAFTED, ACCEPTED, RUNNING, WAITING}
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in wanted:
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums
