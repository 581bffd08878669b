"""The arithmetic of the measured figures."""

from dataclasses import replace
from math import inf

import pytest

from flash_engine.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.gate.measurement import Arrival, Sample, Stream, block_rates, measure

BEFORE = EngineCounters(generated=1000, running=0, drafted=500, accepted=400)


def counters(generated: float, drafted: float | None = 500, accepted: float | None = 400) -> EngineCounters:
    return EngineCounters(generated=generated, running=0, drafted=drafted, accepted=accepted)


def test_decode_speed_excludes_the_first_token_and_the_prefill() -> None:
    stream = Stream(asked=10.0, first=10.5, last=12.5, tokens=129)
    assert stream.decode_tokens_per_second == 64
    assert stream.first_token_millis == 500


def test_a_stream_in_one_chunk_has_no_speed() -> None:
    assert Stream(asked=0, first=1, last=1, tokens=128).decode_tokens_per_second == 0


def test_the_median_of_the_samples_counts() -> None:
    slow, fast, odd = (Stream(asked=0, first=0, last=seconds, tokens=101) for seconds in (2.0, 1.0, 100.0))
    samples = [Sample(stream, BEFORE, counters(1101)) for stream in (slow, fast, odd)]
    assert measure(samples).decode_tokens_per_second == 50


def test_acceptance_is_the_change_of_the_engines_counters() -> None:
    figures = measure([Sample(Stream(0, 1, 2, 100), BEFORE, counters(1100, 560, 445))])
    assert (figures.drafted, figures.accepted, figures.acceptance_percent) == (60, 45, 75)


def with_drafts(drafts: float, drafted: float, accepted: float, *positions: float) -> EngineCounters:
    seen = counters(1000, drafted, accepted)
    return replace(seen, drafts=drafts, accepted_per_position=positions)


def test_acceptance_by_position_is_of_the_steps_with_a_draft() -> None:
    before = with_drafts(10, 30, 9, 5, 3, 1)
    after = replace(with_drafts(60, 180, 84, 42, 27, 15), generated=1100)
    figures = measure([Sample(Stream(0, 1, 2, 100), before, after)] * 2)
    assert list(figures.position_percents) == [74, 48, 28]
    assert (figures.first_draft_percent, figures.acceptance_length, figures.drafts) == (74, 2.5, 100)


POSITIONS: dict[str, tuple[EngineCounters, EngineCounters, float | None]] = {
    "that appears with the first draft": (with_drafts(0, 0, 0), with_drafts(10, 30, 6, 6, 0, 0), 60),
    "of counters that began again": (with_drafts(50, 150, 60, 30, 20, 10), with_drafts(5, 15, 3, 3, 0), None),
    "that the engine does not tell": (with_drafts(0, 0, 0), with_drafts(10, 30, 6), None),
    "without a counter of drafts": (counters(1000, 0, 0), counters(1100, 30, 6), None),
    "that is the only one": (with_drafts(0, 0, 0), with_drafts(50, 50, 20), 40),
}


@pytest.mark.parametrize(("before", "after", "percent"), POSITIONS.values(), ids=POSITIONS.keys())
def test_the_acceptance_of_a_first_position(
    before: EngineCounters, after: EngineCounters, percent: float | None
) -> None:
    assert measure([Sample(Stream(0, 1, 2, 100), before, after)]).first_draft_percent == percent


def test_positions_are_read_in_order_and_up_to_a_gap() -> None:
    base = "vllm:generation_tokens_total 1\nvllm:num_requests_running 0\n"
    name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    labels = {"1": 3, "0": 5, "3": 9, "x": 1, "-1": 2}
    text = base + "".join(f'{name}{{engine="0",position="{at}"}} {count}\n' for at, count in labels.items())
    assert EngineCounters.parse(text).accepted_per_position == (5, 3)
    assert EngineCounters.parse(base).accepted_per_position == ()


def test_without_drafts_there_is_no_acceptance() -> None:
    without = counters(1000, None, None)
    assert measure([Sample(Stream(0, 1, 2, 100), without, counters(1100, None, None))]).acceptance_percent is None
    assert measure([Sample(Stream(0, 1, 2, 100), BEFORE, counters(1100))]).acceptance_percent is None


def test_tokens_for_other_clients_are_counted() -> None:
    assert Sample(Stream(0, 1, 2, 100), BEFORE, counters(1350)).foreign_tokens == 250
    assert measure([Sample(Stream(0, 1, 2, 100), BEFORE, counters(1350))] * 2).foreign_tokens == 500


def test_an_engine_may_continue_a_cut_stream_for_a_moment() -> None:
    cut = Stream(0, 1, 2, 100, cut=True)
    assert Sample(cut, BEFORE, counters(1110)).foreign_tokens == 0
    assert Sample(cut, BEFORE, counters(1350)).foreign_tokens == 250


def test_another_clients_request_is_noticed_even_with_one_token() -> None:
    stream = Stream(0, 1, 2, 100)
    before, after = replace(BEFORE, finished=7), replace(counters(1100), finished=9)
    assert Sample(stream, before, after).foreign_requests == 1
    assert Sample(stream, before, replace(after, finished=8)).foreign_requests == 0


DISTURBED = {
    "others' tokens": (counters(1200), True),
    "counters that stand still": (counters(1000), True),
    "counters that were reset": (counters(1100, 20, 10), True),
    "more accepted than drafted": (counters(1100, 510, 420), True),
    "nothing": (counters(1100, 560, 445), False),
}


@pytest.mark.parametrize(("after", "disturbed"), DISTURBED.values(), ids=DISTURBED.keys())
def test_a_sample_is_disturbed_by(after: EngineCounters, disturbed: bool) -> None:  # noqa: FBT001
    assert Sample(Stream(0, 1, 2, 100), BEFORE, after).disturbed is disturbed


def test_a_block_ends_with_the_chunk_that_fills_it() -> None:
    arrivals = [Arrival(0.0, 1), Arrival(0.1, 9), Arrival(0.5, 18), Arrival(0.6, 20), Arrival(1.0, 38)]
    assert list(block_rates(arrivals)) == [17 / 0.5, 20 / 0.5]


def test_chunks_that_arrive_together_have_infinite_speed() -> None:
    assert list(block_rates([Arrival(1.0, 1), Arrival(1.0, 17)])) == [float("inf")]


def test_the_whole_first_chunk_belongs_to_the_prefill() -> None:
    stream = Stream(0, 1, 2, 64, (Arrival(1, 8), Arrival(2, 64)), first_tokens=8)
    assert stream.decode_tokens_per_second == 56


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


def test_counters_without_prometheus_suffix_are_accepted() -> None:
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
    "statistics that are switched off": (
        "# TYPE python_info gauge\npython_info 1.0\nprocess_start_time_seconds 1.75e+09\n",
        "lacks vllm:generation_tokens_total, vllm:num_requests_running: .*--disable-log-stats from engine.extraArgs",
    ),
    "another version's metrics": (
        "vllm:num_requests_running 0\n",
        "lacks vllm:generation_tokens_total: use an engine.image",
    ),
    "a bucket without a bound": (
        'vllm:generation_tokens 5\nvllm:num_requests_running 0\nvllm:inter_token_latency_seconds_bucket{a="b"} 1\n',
        "cannot be read",
    ),
    "no number": ("vllm:generation_tokens_total NaN\nvllm:num_requests_running 0\n", "is nan"),
}


def test_the_histogram_of_the_time_between_tokens_is_summed_over_engines() -> None:
    bucket = "vllm:inter_token_latency_seconds_bucket"
    parsed = EngineCounters.parse(
        "vllm:generation_tokens_total 5\nvllm:num_requests_running 0\n"
        + "".join(f'{bucket}{{engine="{n}",le="0.05"}} 3\n{bucket}{{engine="{n}",le="+Inf"}} 4\n' for n in range(2))
    )
    assert parsed.latencies == ((0.05, 6.0), (inf, 8.0))


@pytest.mark.parametrize(("text", "message"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unusable_metrics_are_reported(text: str, message: str) -> None:
    with pytest.raises(MissingMetricsError, match=message):
        EngineCounters.parse(text)
