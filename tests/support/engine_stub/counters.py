"""vLLM's metrics of an engine stub, under the names of vLLM 0.32 and 0.33 (v1/metrics/loggers.py, v1/spec_decode)."""

from dataclasses import dataclass, fields

from engine_stub.traits import Traits

SPECULATION = frozenset({"drafted", "accepted"})

SAMPLES = {
    "generated": "vllm:generation_tokens_total",
    "prompts": "vllm:prompt_tokens_total",
    "finished": "vllm:request_success_total",
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


@dataclass
class Counters:
    """Only a reset decreases them."""

    generated: int = 0
    prompts: int = 0
    finished: int = 0
    drafted: int = 0
    accepted: int = 0
    steps: int = 0
    processed: int = 0
    first_tokens: int = 0
    first_token_seconds: float = 0.0
    intervals: int = 0
    decode_seconds: float = 0.0
    kv_cache: float = 0.0
    """A gauge: it grows with every step and every chunk of a prompt."""

    def reset(self) -> None:
        for field in fields(self):
            setattr(self, field.name, type(getattr(self, field.name))())

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
        return "".join(_lines(name, value) for name, value in renamed.items())


def _lines(name: str, value: float) -> str:
    return f'# TYPE {_family(name)} {_kind(name)}\n{name}{{engine="0",model_name="m"}} {float(value)}\n'


def _family(name: str) -> str:
    return name.removesuffix("_total") if _kind(name) == "counter" else name


def _kind(name: str) -> str:
    """Parts of histograms are exported on their own here, so they have no type."""
    if name.endswith(("_sum", "_count")):
        return "untyped"
    return "counter" if name.endswith("_total") else "gauge"
