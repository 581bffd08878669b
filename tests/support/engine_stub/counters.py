"""vLLM's metrics of an engine stub, under the names of vLLM 0.32 and 0.33 (v1/metrics/loggers.py, v1/spec_decode)."""

from dataclasses import dataclass, field, fields
from math import inf

from engine_stub.traits import Traits

SPECULATION = frozenset({"drafts", "drafted", "accepted"})
PER_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos_total"

SAMPLES = {
    "generated": "vllm:generation_tokens_total",
    "prompts": "vllm:prompt_tokens_total",
    "finished": "vllm:request_success_total",
    "drafts": "vllm:spec_decode_num_drafts_total",
    "drafted": "vllm:spec_decode_num_draft_tokens_total",
    "accepted": "vllm:spec_decode_num_accepted_tokens_total",
    "steps": "vllm:iteration_tokens_total_count",
    "processed": "vllm:iteration_tokens_total_sum",
    "first_tokens": "vllm:time_to_first_token_seconds_count",
    "first_token_seconds": "vllm:time_to_first_token_seconds_sum",
    "intervals": "vllm:inter_token_latency_seconds_count",
    "decode_seconds": "vllm:inter_token_latency_seconds_sum",
}
"""The sample that each counter is exported as."""


BOUNDS = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    inf,
)
"""Of vLLM's histogram of the time between tokens (v1/metrics/buckets.py)."""

BUCKET = "vllm:inter_token_latency_seconds_bucket"


@dataclass
class Counters:
    """Only a reset decreases them."""

    generated: int = 0
    prompts: int = 0
    finished: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    steps: int = 0
    processed: int = 0
    first_tokens: int = 0
    first_token_seconds: float = 0.0
    intervals: int = 0
    decode_seconds: float = 0.0
    latencies: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))
    """How many intervals were at most as long as each of BOUNDS."""
    per_position: tuple[int, ...] = ()
    """Accepted tokens by their position in the draft."""
    kv_cache: float = 0.0
    """A gauge: it grows with every step and every chunk of a prompt."""

    def reset(self) -> None:
        fresh = Counters()
        for field_ in fields(self):
            setattr(self, field_.name, getattr(fresh, field_.name))

    def observe_interval(self, seconds: float) -> None:
        """The time between two outputs of a request, when the second one arrives."""
        self.intervals += 1
        self.decode_seconds += seconds
        for number, bound in enumerate(BOUNDS):
            self.latencies[number] += seconds <= bound

    def draft(self, drafted: int, accepted: int) -> None:
        self.drafts += 1
        self.drafted += drafted
        self.accepted += accepted
        earlier = (*self.per_position, *(0 for _ in range(drafted - len(self.per_position))))
        self.per_position = tuple(count + (position < accepted) for position, count in enumerate(earlier))

    def page(self, traits: Traits, *, running: int, waiting: int = 0) -> str:
        """The exposition format, without what the traits hide."""
        values: dict[str, float] = {
            sample: getattr(self, name)
            for name, sample in SAMPLES.items()
            if traits.speculation or name not in SPECULATION
        }
        values["vllm:kv_cache_usage_perc"] = self.kv_cache % 1
        values["vllm:num_requests_running"] = running
        values["vllm:num_requests_waiting"] = waiting
        values.pop(traits.missing_metric or "", None)
        old, new = traits.renamed_metric or ("", "")
        renamed = {new if name == old else name: value for name, value in values.items()}
        lines = [_lines(name, value) for name, value in renamed.items()]
        if traits.speculation and traits.missing_metric != PER_POSITION:
            lines += [_position_line(position, count) for position, count in enumerate(self.per_position)]
        return "".join([*lines, *self._buckets(traits)])

    def _buckets(self, traits: Traits) -> list[str]:
        if traits.missing_metric == BUCKET:
            return []
        bounds = ("+Inf" if bound == inf else str(bound) for bound in BOUNDS)
        return [
            f'{BUCKET}{{engine="0",le="{bound}",model_name="m"}} {float(count)}\n'
            for bound, count in zip(bounds, self.latencies, strict=True)
        ]


def _lines(name: str, value: float) -> str:
    return f'# TYPE {_family(name)} {_kind(name)}\n{name}{{engine="0",model_name="m"}} {float(value)}\n'


def _position_line(position: int, count: int) -> str:
    return f'{PER_POSITION}{{engine="0",model_name="m",position="{position}"}} {float(count)}\n'


def _family(name: str) -> str:
    return name.removesuffix("_total") if _kind(name) == "counter" else name


def _kind(name: str) -> str:
    """Parts of histograms are exported on their own here, so they have no type."""
    if name.endswith(("_sum", "_count")):
        return "untyped"
    return "counter" if name.endswith("_total") else "gauge"
