"""The gate beside an engine stub: every failure that requests can reveal, and when the gate measures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flash_contracts.document import write_json
from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_record import EngineExit
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.engine_client import Answer
from flash_engine.gate.result import result_of
from flash_engine.gate.verdict import Verdict
from flash_operator.api.v1alpha1 import LONG_ANSWER, LONG_QUESTION
from gate_harness import GateHarness

DIED = EngineExit(code=1, signal=None, at="2026-11-24T12:01:00.000Z", last_lines=("ValueError: no MTP weights",))


async def test_a_healthy_engine_passes_with_its_figures(harness: GateHarness) -> None:
    state = await harness.observe()

    assert state.verdict.reason == "Passed"
    figures = state.evidence.measurement
    assert figures is not None
    assert (figures.tokens, figures.drafted, figures.accepted) == (128, 64, 64)
    assert figures.acceptance_percent == 100
    assert state.gate_millis is not None


async def test_tokens_are_counted_by_usage_and_never_by_chunks(harness: GateHarness) -> None:
    harness.engine.traits.tokens_per_chunk = 16
    figures = (await harness.observe()).evidence.measurement
    assert figures is not None
    assert figures.tokens == 128


async def test_a_passed_engine_is_not_measured_again(harness: GateHarness) -> None:
    await harness.observe()
    streams = harness.engine.count("stream")
    await harness.observe()
    await harness.observe()
    assert harness.engine.count("stream") == streams == 3, "a warm-up and two samples"


async def test_a_dead_draft_never_passes(harness: GateHarness) -> None:
    harness.engine.traits.acceptance = 0.0
    state = await harness.observe()
    assert state.verdict.reason == "DraftDead"
    assert "0 of 126 drafted tokens" in state.verdict.message


async def test_absent_speculation_is_distinguished_from_a_dead_draft(harness: GateHarness) -> None:
    harness.engine.traits.speculation = False
    assert (await harness.observe()).verdict.reason == "SpeculationAbsent"
    harness.engine.traits.speculation, harness.engine.traits.drafting = True, False
    assert (await harness.observe()).verdict.reason == "SpeculationAbsent"


async def test_speculation_that_is_not_expected_may_be_absent(harness: GateHarness) -> None:
    harness.engine.traits.speculation = False
    harness.configure(speculation={"expected": False})
    assert (await harness.observe()).verdict.reason == "Passed"


async def test_the_message_for_a_low_acceptance_has_the_floor(harness: GateHarness) -> None:
    harness.engine.traits.acceptance = 0.25
    state = await harness.observe()
    assert state.verdict.reason == "AcceptanceTooLow"
    assert " % of 1" in state.verdict.message
    assert "40 %" in state.verdict.message


async def test_a_floor_that_nothing_reaches_is_too_slow(harness: GateHarness) -> None:
    harness.configure(decode={"minTokensPerSecond": 1e12})
    state = await harness.observe()
    assert state.verdict.reason == "TooSlow"
    assert "1e+12" in state.verdict.message


async def test_a_lower_floor_passes_by_the_existing_figures(harness: GateHarness) -> None:
    harness.configure(decode={"minTokensPerSecond": 1e12}, retrySeconds=3600)
    await harness.observe()
    streams = harness.engine.count("stream")

    harness.configure(decode={"minTokensPerSecond": 0.001})
    state = await harness.observe()

    assert state.verdict.reason == "Passed"
    assert harness.engine.count("stream") == streams


async def test_another_prompt_is_measured_again(harness: GateHarness) -> None:
    await harness.observe()
    streams = harness.engine.count("stream")
    harness.configure(decode={"tokens": 32})
    await harness.observe()
    assert harness.engine.count("stream") == 2 * streams


async def test_a_failed_engine_is_measured_again_after_the_pause_and_may_pass(harness: GateHarness) -> None:
    harness.engine.traits.acceptance = 0.0
    harness.configure(retrySeconds=3600)
    assert (await harness.observe()).verdict.reason == "DraftDead"
    harness.engine.traits.acceptance = 1.0
    assert (await harness.observe()).verdict.reason == "DraftDead", "the pause is not over"
    harness.configure(retrySeconds=0)
    assert (await harness.observe()).verdict.reason == "Passed"


WRONG = {
    "another answer": ["the answer is 41"],
    "nothing": [""],
}


@pytest.mark.parametrize("answers", WRONG.values(), ids=WRONG.keys())
async def test_wrong_output_is_found_before_anything_is_timed(harness: GateHarness, answers: list[str]) -> None:
    harness.engine.traits.answers = list(answers)
    state = await harness.observe()
    assert state.verdict.reason == "WrongOutput"
    assert harness.engine.count("stream") == 0


@pytest.mark.parametrize("text", ["!!!!!!!!!!", "foo " * 12])
async def test_a_degenerate_answer_is_wrong_even_if_no_answer_is_expected(harness: GateHarness, text: str) -> None:
    harness.engine.traits.answers = [text]
    harness.configure(golden={"expect": None})
    assert (await harness.observe()).verdict.reason == "WrongOutput"


async def test_a_completion_question_goes_to_the_completion_endpoint(harness: GateHarness) -> None:
    harness.configure(golden={"kind": "completion"})
    await harness.observe()
    assert (harness.engine.count("completion"), harness.engine.count("chat")) == (2, 0)


async def test_traffic_of_other_clients_makes_the_figures_inconclusive(harness: GateHarness) -> None:
    harness.engine.traits.foreign_tokens = 500
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert "500 tokens for other clients while 64" in state.verdict.message
    harness.engine.traits.foreign_tokens = 0
    assert (await harness.observe()).verdict.reason == "Passed"


async def test_a_missing_counter_is_inconclusive_and_named(harness: GateHarness) -> None:
    harness.engine.traits.missing_metric = "vllm:generation_tokens_total"
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert "vllm:generation_tokens_total" in state.verdict.message


async def test_server_errors_are_inconclusive_and_quoted(harness: GateHarness) -> None:
    harness.engine.traits.status = 500
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert "HTTP 500" in state.verdict.message


async def test_a_cut_stream_is_inconclusive(harness: GateHarness) -> None:
    harness.engine.traits.cut_after_chunks = 3
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert "cut" in state.verdict.message


async def test_an_engine_that_is_not_healthy_is_starting(harness: GateHarness) -> None:
    harness.engine.traits.healthy = False
    harness.configure(startupTimeoutSeconds=10**9)
    assert (await harness.observe()).verdict.reason == "EngineStarting"


async def test_an_engine_that_never_becomes_healthy_hangs(harness: GateHarness) -> None:
    harness.engine.traits.healthy = False
    harness.configure(startupTimeoutSeconds=1)
    harness.record(started_monotonic=0.0)
    state = await harness.observe()
    assert state.verdict.reason == "StartupHang"
    assert "within 1 s" in state.verdict.message


async def test_the_message_for_an_exit_has_the_engines_own_error(harness: GateHarness) -> None:
    harness.engine.traits.healthy = False
    harness.record(phase="Exited", starts=2, exit=DIED)
    state = await harness.observe()
    assert state.verdict.reason == "EngineExited"
    assert "exit code 1 (2 starts so far): ValueError: no MTP weights" in state.verdict.message


async def test_an_exit_is_reported_while_the_next_run_loads(harness: GateHarness) -> None:
    harness.engine.traits.healthy = False
    harness.configure(startupTimeoutSeconds=10**9)
    harness.record(phase="Starting", starts=3, exit=DIED)
    assert (await harness.observe()).verdict.reason == "EngineExited"


async def test_a_restarted_engine_is_measured_again(harness: GateHarness) -> None:
    await harness.observe()
    harness.record(pid=8, started_at="2026-11-24T13:00:00.000Z", exit=DIED)
    harness.engine.traits.acceptance = 0.0
    state = await harness.observe()
    assert state.verdict.reason == "DraftDead"
    assert state.attempts == 2


async def test_an_engine_that_turns_unhealthy_loses_its_verdict(harness: GateHarness) -> None:
    await harness.observe()
    harness.engine.traits.healthy = False
    assert not (await harness.observe()).verdict.passed


async def test_the_last_valid_configuration_stays_in_force(harness: GateHarness) -> None:
    await harness.observe()
    (harness.run_dir / "gate.json").write_text("{")
    assert (await harness.observe()).verdict.reason == "Passed"


async def test_without_a_configuration_nothing_passes(harness: GateHarness) -> None:
    (harness.run_dir / "gate.json").write_text('{"model": "m"}')
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert "gate.json: golden" in state.verdict.message


async def test_one_disturbed_stream_is_repeated_within_the_trial(harness: GateHarness) -> None:
    harness.engine.traits.reset_after_tokens = 50
    state = await harness.observe()
    assert (state.verdict.reason, state.attempts) == ("Passed", 1)
    assert harness.engine.count("stream") == 4, "a warm-up, one that the counters do not tell of, and two samples"


LONG = {"tokens": 300, "minPrefillTokensPerSecond": 1}


COUNTED = {"kind": "chat", "prompt": LONG_QUESTION, "expect": LONG_ANSWER, "maxTokens": 160}


async def test_a_long_answer_is_asked_for_once_and_of_a_deterministic_engine_twice(harness: GateHarness) -> None:
    harness.configure(longAnswer=COUNTED)
    assert (await harness.observe()).verdict.passed
    assert harness.engine.count("chat") == 2 + 1
    harness.configure(deterministic=True, decode={"prompt": "another"})
    assert (await harness.observe()).verdict.passed
    assert harness.engine.count("chat") == 3 + 2 + 2


async def test_a_wrong_long_answer_is_found_before_anything_is_timed(harness: GateHarness) -> None:
    harness.engine.traits.count = "1, 2, 3, 4, 4, 4"
    harness.configure(longAnswer=COUNTED)
    assert (await harness.observe()).verdict.reason == "WrongOutput"
    assert harness.engine.count("stream") == 0


async def test_a_model_that_thinks_by_default_is_asked_not_to(harness: GateHarness) -> None:
    harness.engine.traits.thinks = True
    assert (await harness.observe()).verdict.passed
    assert harness.engine.count("chat") == 2


async def test_a_model_that_thinks_anyway_gets_the_tokens_for_it(harness: GateHarness) -> None:
    harness.engine.traits.thinks_anyway, harness.engine.traits.thought_tokens = True, 100
    assert (await harness.observe()).verdict.passed
    assert harness.engine.count("chat") == 4, "each question with few tokens, and then with more"


async def test_endless_thinking_is_not_wrong_output(harness: GateHarness) -> None:
    harness.engine.traits.thinks_anyway, harness.engine.traits.thought_tokens = True, 10**6
    state = await harness.observe()
    assert state.verdict.reason == "Inconclusive"
    assert "within 128 tokens: set readiness.golden to a question of kind Completion" in state.verdict.message


async def test_a_tokenizer_that_takes_no_template_arguments_is_asked_without(harness: GateHarness) -> None:
    harness.engine.traits.takes_template_arguments = False
    assert (await harness.observe()).verdict.passed


CHOICES: dict[str, tuple[dict[str, Any], str, bool]] = {
    "a completion": ({"text": "42"}, "42", False),
    "a chat": ({"message": {"content": "42"}, "finish_reason": "stop"}, "42", False),
    "an answer after thought": ({"message": {"reasoning": "17 + 25.", "content": "42"}}, "17 + 25. 42", False),
    "thought under its former name": ({"message": {"reasoning_content": "So 42", "content": None}}, "So 42", False),
    "thought that its tokens ended": (
        {"message": {"reasoning": "17 and", "content": None}, "finish_reason": "length"}, "17 and", True),
    "an answer that its tokens ended": (
        {"message": {"reasoning": "17 and", "content": "4"}, "finish_reason": "length"}, "17 and 4", False),
}  # fmt: skip


@pytest.mark.parametrize(("choice", "text", "is_unfinished"), CHOICES.values(), ids=CHOICES.keys())
def test_an_answer(choice: dict[str, Any], text: str, *, is_unfinished: bool) -> None:
    assert Answer.of(choice) == Answer(text, is_unfinished)


async def test_a_slow_engine_gets_no_long_prompt(harness: GateHarness) -> None:
    harness.configure(longPrompt=LONG, decode={"minTokensPerSecond": 1e12})
    assert (await harness.observe()).verdict.reason == "TooSlow"
    assert harness.engine.longest_prompt < 300


async def test_an_engine_without_tokenize_gets_fewer_tokens_than_asked_for(harness: GateHarness) -> None:
    harness.engine.traits.tokenizes = False
    harness.configure(longPrompt={"tokens": 3000, "minPrefillTokensPerSecond": 1})
    assert (await harness.observe()).verdict.passed
    assert 300 < harness.engine.longest_prompt < 3000


async def test_another_length_of_the_long_prompt_is_measured_again_and_another_floor_is_not(
    harness: GateHarness,
) -> None:
    harness.configure(longPrompt=LONG, retrySeconds=3600)
    await harness.observe()
    harness.configure(longPrompt={"minPrefillTokensPerSecond": 1e9})
    state = await harness.observe()
    assert (state.verdict.reason, state.attempts) == ("PrefillTooSlow", 1)
    harness.configure(longPrompt={"tokens": 400, "minPrefillTokensPerSecond": 1})
    state = await harness.observe()
    assert (state.verdict.reason, state.attempts) == ("Passed", 2)
    assert harness.engine.longest_prompt == 400


@pytest.mark.parametrize("trait", [{"tokens_per_chunk": 1000}, {"status": 400}], ids=["in one piece", "refused"])
async def test_a_long_prompt_that_cannot_be_timed_is_inconclusive(harness: GateHarness, trait: dict[str, int]) -> None:
    await harness.observe()
    for name, value in trait.items():
        setattr(harness.engine.traits, name, value)
    harness.configure(longPrompt=LONG, retrySeconds=3600)
    state = await harness.observe()
    assert (state.verdict.reason, state.attempts) == ("Passed", 2), "it keeps its verdict"


async def test_the_concurrent_round_follows_the_timed_streams(harness: GateHarness) -> None:
    harness.configure(decode={"streams": 3})
    state = await harness.observe()
    assert state.verdict.reason == "Passed"
    assert state.evidence.trial is not None
    assert state.evidence.trial.concurrent_round is not None
    assert state.evidence.trial.concurrent_round.streams == 3
    assert harness.engine.count("stream") == 3 + 3 + 3, "of one length, and each longer than the one before"


async def test_a_slow_engine_gets_no_concurrent_round(harness: GateHarness) -> None:
    harness.configure(decode={"streams": 3, "minTokensPerSecond": 1e12})
    assert (await harness.observe()).verdict.reason == "TooSlow"
    assert harness.engine.count("stream") == 3


async def test_the_model_download_is_reported_until_the_engine_starts(harness: GateHarness, tmp_path: Path) -> None:
    harness.record(phase="WaitingForFlags", pid=None, started_at=None, starts=0)
    harness.engine.traits.healthy = False
    fetching = DownloadRecord(phase="Downloading", commit="c0ffee", bytes=1 << 30, total_bytes=4 << 30)
    fetching.write(tmp_path / DownloadRecord.FILE)
    state = await harness.observe()
    assert (state.verdict.reason, state.verdict.message) == ("EngineStarting", "fetching 1.0 of 4.0 GiB")

    failed = replace(fetching, phase="Failed", failure="the hub denies this token access to owner/model (403)")
    failed.write(tmp_path / DownloadRecord.FILE)
    assert (await harness.observe()).verdict == Verdict(Reason.MODEL_UNAVAILABLE, failed.failure or "")

    write_json(tmp_path / DownloadRecord.FILE, replace(fetching, phase="Complete", bytes=4 << 30).to_json())
    harness.engine.traits.healthy = True
    harness.record()
    state = await harness.observe()
    assert state.verdict.passed
    assert state.evidence.checkpoint_bytes == 4 << 30
    assert result_of(state, harness.gate.config, None).to_json()["delivery"]["commit"] == "c0ffee"


async def test_an_invalid_download_record_is_ignored(harness: GateHarness, tmp_path: Path) -> None:
    (tmp_path / DownloadRecord.FILE).write_text('{"phase": "Flying", "bytes": "many"}')
    assert (await harness.observe()).verdict.passed
