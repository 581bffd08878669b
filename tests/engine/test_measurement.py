"""Arithmetic of the figures."""

import pytest

from flash_engine.gate.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.gate.measurement import Stream, measure

BEFORE = EngineCounters(generated=1000, running=0, drafted=500, accepted=400)


def counters(generated: float, drafted: float | None = 500, accepted: float | None = 400) -> EngineCounters:
    return EngineCounters(generated=generated, running=0, drafted=drafted, accepted=accepted)


def test_decode_speed_leaves_out_the_first_token_and_the_prompts_time() -> None:
    stream = Stream(asked=10.0, first=10.5, last=12.5, tokens=129)
    assert stream.decode_tokens_per_second == 64
    assert stream.first_token_millis == 500


def test_a_stream_in_one_chunk_has_no_speed() -> None:
    assert Stream(asked=0, first=1, last=1, tokens=128).decode_tokens_per_second == 0


def test_the_median_of_the_samples_counts() -> None:
    slow, fast, odd = (Stream(asked=0, first=0, last=seconds, tokens=101) for seconds in (2.0, 1.0, 100.0))
    assert measure([slow, fast, odd], BEFORE, counters(1303)).decode_tokens_per_second == 50


def test_acceptance_is_the_change_of_the_engines_counters() -> None:
    figures = measure([Stream(0, 1, 2, 100)], BEFORE, counters(1100, 560, 445))
    assert (figures.drafted, figures.accepted, figures.acceptance_percent) == (60, 45, 75)


def test_no_drafts_have_no_acceptance() -> None:
    without = counters(1000, None, None)
    assert measure([Stream(0, 1, 2, 100)], without, counters(1100, None, None)).acceptance_percent is None
    assert measure([Stream(0, 1, 2, 100)], BEFORE, counters(1100)).acceptance_percent is None


def test_tokens_that_were_not_ours_are_counted() -> None:
    assert measure([Stream(0, 1, 2, 100)], BEFORE, counters(1350)).foreign_tokens == 250


def test_counters_are_summed_over_engines() -> None:
    text = (
        "# TYPE vllm:generation_tokens counter\n"
        'vllm:generation_tokens_total{engine="0"} 5.0\nvllm:generation_tokens_total{engine="1"} 7.0\n'
        "# TYPE vllm:num_requests_running gauge\n"
        'vllm:num_requests_running{engine="0"} 1.0\n'
    )
    parsed = EngineCounters.parse(text)
    assert (parsed.generated, parsed.running, parsed.drafted) == (12, 1, None)


def test_a_renamed_metric_is_named() -> None:
    with pytest.raises(MissingMetricsError, match="vllm:num_requests_running"):
        EngineCounters.parse('# TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total{engine="0"} 5.0\n')


def test_counters_without_the_suffix_of_prometheus_are_known() -> None:
    text = "vllm:generation_tokens 5\nvllm:num_requests_running 0\nvllm:num_requests_waiting 2\n"
    parsed = EngineCounters.parse(text)
    assert (parsed.generated, parsed.unfinished) == (5, 2)


UNREADABLE = {
    "drafts of which nobody says whether they are accepted": (
        "vllm:generation_tokens_total 5\nvllm:num_requests_running 0\nvllm:spec_decode_num_draft_tokens_total 5\n",
        "lacks vllm:spec_decode_num_accepted_tokens_total",
    ),
    "a page of another service": ("<html>not metrics</html>", "cannot be read"),
    "nothing": ("", "lacks vllm:generation_tokens_total, vllm:num_requests_running"),
    "no number": ("vllm:generation_tokens_total NaN\nvllm:num_requests_running 0\n", "is nan"),
}


@pytest.mark.parametrize(("text", "told"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_metrics_of_no_use_are_named_and_never_guessed(text: str, told: str) -> None:
    with pytest.raises(MissingMetricsError, match=told):
        EngineCounters.parse(text)
