"""The gate in time: every failure of an engine that a request can show, and when it measures at all."""

from dataclasses import replace
from pathlib import Path

import pytest

from flash_contracts.document import write_json
from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_record import Exit
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.result import result_of
from flash_engine.gate.verdict import Verdict
from gate_harness import Bench

DIED = Exit(code=1, signal=None, at="2026-11-24T12:01:00.000Z", last_lines=("ValueError: no MTP weights",))


async def test_a_healthy_engine_passes_with_its_figures(bench: Bench) -> None:
    state = await bench.look()

    assert state.verdict.reason == "Passed"
    figures = state.evidence.measurement
    assert figures is not None
    assert (figures.tokens, figures.drafted, figures.accepted) == (128, 64, 64)
    assert figures.acceptance_percent == 100
    assert state.gate_millis is not None


async def test_tokens_are_counted_by_usage_and_never_by_chunks(bench: Bench) -> None:
    bench.engine.traits.tokens_per_chunk = 16
    figures = (await bench.look()).evidence.measurement
    assert figures is not None
    assert figures.tokens == 128


async def test_a_passed_engine_is_not_measured_again(bench: Bench) -> None:
    await bench.look()
    streams = bench.engine.count("stream")
    await bench.look()
    await bench.look()
    assert bench.engine.count("stream") == streams == 3, "a warm-up and two samples"


async def test_a_dead_draft_never_passes(bench: Bench) -> None:
    bench.engine.traits.acceptance = 0.0
    state = await bench.look()
    assert state.verdict.reason == "DraftDead"
    assert "0 of 126 drafted tokens" in state.verdict.message


async def test_an_engine_without_speculation_is_told_from_one_whose_draft_is_dead(bench: Bench) -> None:
    bench.engine.traits.speculation = False
    assert (await bench.look()).verdict.reason == "SpeculationAbsent"
    bench.engine.traits.speculation, bench.engine.traits.drafting = True, False
    assert (await bench.look()).verdict.reason == "SpeculationAbsent"


async def test_speculation_that_nobody_asked_for_may_be_absent(bench: Bench) -> None:
    bench.engine.traits.speculation = False
    bench.configure(speculation={"expected": False})
    assert (await bench.look()).verdict.reason == "Passed"


async def test_a_low_acceptance_is_named_with_the_floor(bench: Bench) -> None:
    bench.engine.traits.acceptance = 0.25
    state = await bench.look()
    assert state.verdict.reason == "AcceptanceTooLow"
    assert " % of 1" in state.verdict.message
    assert "40 %" in state.verdict.message


async def test_a_floor_that_nothing_reaches_is_too_slow(bench: Bench) -> None:
    bench.configure(decode={"minTokensPerSecond": 1e12})
    state = await bench.look()
    assert state.verdict.reason == "TooSlow"
    assert "1e+12" in state.verdict.message


async def test_a_lower_floor_passes_by_the_figures_there_are(bench: Bench) -> None:
    bench.configure(decode={"minTokensPerSecond": 1e12}, retrySeconds=3600)
    await bench.look()
    streams = bench.engine.count("stream")

    bench.configure(decode={"minTokensPerSecond": 0.001})
    state = await bench.look()

    assert state.verdict.reason == "Passed"
    assert bench.engine.count("stream") == streams


async def test_another_prompt_is_measured_anew(bench: Bench) -> None:
    await bench.look()
    streams = bench.engine.count("stream")
    bench.configure(decode={"tokens": 32})
    await bench.look()
    assert bench.engine.count("stream") == 2 * streams


async def test_a_failed_engine_is_measured_again_after_the_pause_and_may_pass(bench: Bench) -> None:
    bench.engine.traits.acceptance = 0.0
    bench.configure(retrySeconds=3600)
    assert (await bench.look()).verdict.reason == "DraftDead"
    bench.engine.traits.acceptance = 1.0
    assert (await bench.look()).verdict.reason == "DraftDead", "the pause is not over"
    bench.configure(retrySeconds=0)
    assert (await bench.look()).verdict.reason == "Passed"


WRONG = {
    "another answer": ["the answer is 41"],
    "nothing": [""],
}


@pytest.mark.parametrize("answers", WRONG.values(), ids=WRONG.keys())
async def test_wrong_output_is_found_before_anything_is_timed(bench: Bench, answers: list[str]) -> None:
    bench.engine.traits.answers = list(answers)
    state = await bench.look()
    assert state.verdict.reason == "WrongOutput"
    assert bench.engine.count("stream") == 0


@pytest.mark.parametrize("text", ["!!!!!!!!!!", "foo " * 12])
async def test_a_degenerate_answer_is_wrong_though_nothing_is_expected(bench: Bench, text: str) -> None:
    bench.engine.traits.answers = [text]
    bench.configure(golden={"expect": None})
    assert (await bench.look()).verdict.reason == "WrongOutput"


async def test_a_completion_question_goes_to_the_completion_endpoint(bench: Bench) -> None:
    bench.configure(golden={"kind": "completion"})
    await bench.look()
    assert (bench.engine.count("completion"), bench.engine.count("chat")) == (2, 0)


async def test_traffic_of_others_makes_the_figures_inconclusive_and_not_wrong(bench: Bench) -> None:
    bench.engine.traits.foreign_tokens = 500
    state = await bench.look()
    assert state.verdict.reason == "Inconclusive"
    assert "500 tokens for others while 64" in state.verdict.message
    bench.engine.traits.foreign_tokens = 0
    assert (await bench.look()).verdict.reason == "Passed"


async def test_a_missing_counter_is_inconclusive_and_named(bench: Bench) -> None:
    bench.engine.traits.missing_metric = "vllm:generation_tokens_total"
    state = await bench.look()
    assert state.verdict.reason == "Inconclusive"
    assert "vllm:generation_tokens_total" in state.verdict.message


async def test_server_errors_are_inconclusive_and_quoted(bench: Bench) -> None:
    bench.engine.traits.status = 500
    state = await bench.look()
    assert state.verdict.reason == "Inconclusive"
    assert "HTTP 500" in state.verdict.message


async def test_a_cut_stream_is_inconclusive(bench: Bench) -> None:
    bench.engine.traits.cut_after_chunks = 3
    state = await bench.look()
    assert state.verdict.reason == "Inconclusive"
    assert "cut" in state.verdict.message


async def test_an_engine_that_is_not_healthy_is_starting(bench: Bench) -> None:
    bench.engine.traits.healthy = False
    bench.configure(startupTimeoutSeconds=10**9)
    assert (await bench.look()).verdict.reason == "EngineStarting"


async def test_an_engine_that_never_gets_healthy_hangs(bench: Bench) -> None:
    bench.engine.traits.healthy = False
    bench.configure(startupTimeoutSeconds=1)
    bench.record(started_at="2026-01-01T12:00:00.000Z")
    state = await bench.look()
    assert state.verdict.reason == "StartupHang"
    assert "within 1 s" in state.verdict.message


async def test_an_engine_that_died_is_told_by_its_own_words(bench: Bench) -> None:
    bench.engine.traits.healthy = False
    bench.record(phase="Exited", starts=2, exit=DIED)
    state = await bench.look()
    assert state.verdict.reason == "EngineExited"
    assert "exit code 1 (2 starts so far): ValueError: no MTP weights" in state.verdict.message


async def test_the_death_stands_while_the_next_run_is_loading(bench: Bench) -> None:
    bench.engine.traits.healthy = False
    bench.configure(startupTimeoutSeconds=10**9)
    bench.record(phase="Starting", starts=3, exit=DIED)
    assert (await bench.look()).verdict.reason == "EngineExited"


async def test_a_restarted_engine_is_measured_anew(bench: Bench) -> None:
    await bench.look()
    bench.record(pid=8, started_at="2026-11-24T13:00:00.000Z", exit=DIED)
    bench.engine.traits.acceptance = 0.0
    state = await bench.look()
    assert state.verdict.reason == "DraftDead"
    assert state.attempts == 2


async def test_an_engine_that_turns_unhealthy_loses_its_verdict(bench: Bench) -> None:
    await bench.look()
    bench.engine.traits.healthy = False
    assert not (await bench.look()).verdict.passed


async def test_a_broken_configuration_is_named_and_the_last_good_one_stands(bench: Bench) -> None:
    await bench.look()
    (bench.run_dir / "gate.json").write_text("{")
    assert (await bench.look()).verdict.reason == "Passed"


async def test_without_a_configuration_nothing_passes(bench: Bench) -> None:
    (bench.run_dir / "gate.json").write_text('{"model": "m"}')
    state = await bench.look()
    assert state.verdict.reason == "Inconclusive"
    assert "gate.json: golden" in state.verdict.message


async def test_one_disturbed_stream_is_made_again_and_costs_no_verdict(bench: Bench) -> None:
    bench.engine.traits.reset_after_tokens = 50
    state = await bench.look()
    assert (state.verdict.reason, state.attempts) == ("Passed", 1)
    assert bench.engine.count("stream") == 4, "a warm-up, one that the counters do not tell of, and two samples"


async def test_all_streams_at_once_follow_the_timed_ones(bench: Bench) -> None:
    bench.configure(decode={"streams": 3})
    state = await bench.look()
    assert state.verdict.reason == "Passed"
    assert state.evidence.trial is not None
    assert state.evidence.trial.concurrent_round is not None
    assert state.evidence.trial.concurrent_round.streams == 3
    assert bench.engine.count("stream") == 3 + 3


async def test_many_streams_are_not_tried_of_an_engine_that_is_slow_alone(bench: Bench) -> None:
    bench.configure(decode={"streams": 3, "minTokensPerSecond": 1e12})
    assert (await bench.look()).verdict.reason == "TooSlow"
    assert bench.engine.count("stream") == 3


async def test_what_fetches_the_model_is_told_of_until_the_engine_starts(bench: Bench, tmp_path: Path) -> None:
    bench.record(phase="WaitingForFlags", pid=None, started_at=None, starts=0)
    bench.engine.traits.healthy = False
    fetching = DownloadRecord(phase="Downloading", commit="c0ffee", bytes=1 << 30, total_bytes=4 << 30)
    fetching.write(tmp_path / DownloadRecord.FILE)
    state = await bench.look()
    assert (state.verdict.reason, state.verdict.message) == ("EngineStarting", "fetching 1.0 of 4.0 GiB")

    failed = replace(fetching, phase="Failed", failure="the hub refuses owner/model to this token (403)")
    failed.write(tmp_path / DownloadRecord.FILE)
    assert (await bench.look()).verdict == Verdict(Reason.MODEL_UNAVAILABLE, failed.failure or "")

    write_json(tmp_path / DownloadRecord.FILE, replace(fetching, phase="Complete", bytes=4 << 30).to_json())
    bench.engine.traits.healthy = True
    bench.record()
    state = await bench.look()
    assert state.verdict.passed
    assert state.evidence.checkpoint_bytes == 4 << 30
    assert result_of(state, bench.gate.config, None).to_json()["delivery"]["commit"] == "c0ffee"


async def test_a_delivery_record_of_nonsense_is_none(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / DownloadRecord.FILE).write_text('{"phase": "Flying", "bytes": "many"}')
    assert (await bench.look()).verdict.passed
