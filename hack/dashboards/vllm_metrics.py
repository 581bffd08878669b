"""vLLM's own metrics that dashboards use: those of `vllm/v1/metrics/loggers.py` in the pinned version.

The engine image's tests compare the names that the gate reads with a real engine; these are some of the same.
"""

GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
COUNTERS = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:request_success_total")
HISTOGRAMS = ("vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds")

NAMES = frozenset(
    (*GAUGES, *COUNTERS, *(f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")))
)
