"""Each verdict reason follows from evidence alone, and the reasons take precedence in order."""

from dataclasses import replace
from typing import Any

import pytest

from flash_contracts.download_record import GIB, DownloadRecord
from flash_contracts.engine_record import EngineExit, EngineRecord, Incident
from flash_contracts.gate_config import GateConfig
from flash_contracts.trial_record import ConcurrentRound, FeatureFault, LongPrompt
from flash_contracts.verdict_reason import MEANINGS, Reason
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.answer_checks import golden_fault, is_degenerate
from flash_engine.gate.evidence import Evidence, GoldenAnswers, Trial
from flash_engine.gate.judge import judge
from flash_engine.gate.measurement import Measurement, Sample, Stream
from flash_engine.gate.start_checks import LOOK_SECONDS
from flash_operator.api.v1alpha1 import DEFAULT_ANSWER, LONG_ANSWER, LONG_QUESTION

DECODE = {"minTokensPerSecond": 60, "prompt": "tell"}
CONFIG = GateConfig.model_validate(
    {
        "model": "m",
        "golden": {"prompt": "17 + 25?", "expect": "42"},
        "decode": DECODE,
        "maxFirstTokenMillis": 500,
    }
)
RUNNING = EngineRecord(phase="Starting", pid=7, started_at="2026-11-24T12:00:00.000Z", starts=1)
GOLDEN = GoldenAnswers(("42.", "42."))
FIGURES = Measurement(
    decode_tokens_per_second=85.0,
    first_token_millis=120.0,
    tokens=384,
    drafted=200,
    accepted=170,
    duration_millis=5000,
    counted_tokens=384,
    foreign_tokens=0,
    foreign_requests=0,
)


def an_engine(**record: Any) -> Evidence:
    """One that is not healthy yet."""
    return Evidence(replace(RUNNING, **record), healthy=False)


def an_exit(*lines: str, code: int | None = 1, signal: str | None = None) -> EngineExit:
    return EngineExit(code, signal, "2026-11-24T12:01:00.000Z", lines)


def tried(golden: GoldenAnswers = GOLDEN, doubt: str | None = None, **figures: Any) -> Evidence:
    """A healthy engine, tried; `figures` are those that differ from a good one's."""
    trial = Trial(golden, replace(FIGURES, **figures), doubt)
    return Evidence(RUNNING, healthy=True, was_healthy=True, trial=trial)


def stalled() -> Evidence:
    trial = Trial(doubt="not one token", stalled=True)
    return Evidence(RUNNING, healthy=True, was_healthy=True, trial=trial, unanswered_seconds=LOOK_SECONDS)


def among_many(*texts: str, streams: tuple[str, ...] = (), long_answers: tuple[str, ...] = ()) -> Evidence:
    """Right while alone; `texts` are the answers among other requests."""
    concurrent_round = ConcurrentRound(len(texts), 200.0, texts, streams, long_answers=long_answers)
    trial = Trial(GOLDEN, FIGURES, concurrent_round=concurrent_round)
    return Evidence(RUNNING, healthy=True, was_healthy=True, trial=trial)


def long_answered(*texts: str) -> Evidence:
    trial = Trial(GOLDEN, FIGURES, long_answers=texts)
    return Evidence(RUNNING, healthy=True, was_healthy=True, trial=trial)


def broken(reason: Reason) -> Evidence:
    trial = Trial(GOLDEN, FIGURES, broken_features=(FeatureFault(reason, "as text"),))
    return Evidence(RUNNING, healthy=True, was_healthy=True, trial=trial)


def deep(text: str) -> Evidence:
    trial = Trial(GOLDEN, FIGURES, long_prompts=(LongPrompt(4000, 1000.0, 80.0, text),))
    return Evidence(RUNNING, healthy=True, was_healthy=True, trial=trial)


def timed(*texts: str) -> Evidence:
    counters = EngineCounters(generated=0, running=0, drafted=None, accepted=None)
    samples = tuple(Sample(Stream(0, 1, 2, 16, text=text), counters, counters) for text in texts)
    return tried(samples=samples)


def answered(*texts: str) -> Evidence:
    return tried(GoldenAnswers(texts))


def fetching(**record: Any) -> Evidence:
    """An engine that waits for its model."""
    return Evidence(EngineRecord(), healthy=False, download=DownloadRecord(**record))


FIVE: dict[str, Any] = {
    "drafts": 100, "drafted": 500, "accepted": 168, "accepted_per_position": (74, 48, 26, 13, 7)
}  # fmt: skip
"""A healthy DSpark module."""
DSPARK = {
    "speculation": {"expected": True, "tokens": 5}, "minAcceptancePercent": 18.4, "minFirstDraftPercent": 40,
}  # fmt: skip
DEEP: dict[str, Any] = {
    "prompt_tokens": 4096, "prompt_first_token_millis": 1320.0, "prefill_tokens_per_second": 3100.0,
    "depth_decode_tokens_per_second": 70.0,
}  # fmt: skip
LONG = {"longPrompt": {"tokens": 4096, "minPrefillTokensPerSecond": 500, "minDecodePercent": 75}}
BEGINNING = "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
COUNT = ", ".join(str(number) for number in range(1, 31))
COUNTED = {"longAnswer": {"prompt": LONG_QUESTION, "expect": LONG_ANSWER, "maxTokens": 160}}
SCALED = {"startup_budget": {"base_seconds": 900, "seconds_per_gibibyte": 18}}
NO_EXPECTATION = {"golden": {"prompt": "go on"}}
UNSHARED = "Failed: Cuda error /workspace/csrc/custom_all_reduce.cuh:455 'invalid argument'"
STOPPED = an_exit("torch.OutOfMemoryError: CUDA out of memory.", code=None, signal="SIGKILL")
DIED = an_exit("INFO loading", "ValueError: no MTP weights", "RuntimeError: Engine core initialization failed.")

CASES: dict[str, tuple[Evidence, dict[str, Any], str, str]] = {
    "a fast engine with living drafts passes, with its figures": (
        tried(), {}, "Passed", "decode 85.0 tok/s, wanted at least 60, 85 % of drafts accepted"),
    "figures exactly at their floors pass": (
        tried(decode_tokens_per_second=60.0, accepted=80, first_token_millis=500.0), {}, "Passed", "60.0 tok/s"),
    "before the launcher has written anything": (
        Evidence(EngineRecord(), healthy=False), {}, "EngineStarting", "launcher has not started yet"),
    "an engine that waits for its flags": (
        an_engine(phase="WaitingForFlags"), {}, "EngineStarting", "node's flags"),
    "a model that is being fetched": (
        fetching(phase="Downloading", bytes=12 * GIB, total_bytes=149 * GIB, bytes_per_second=1.1 * GIB), {},
        "EngineStarting", "fetching 12.0 of 149.0 GiB at 1.1 GiB/s, 2 min left"),
    "a model whose files are compared": (
        fetching(phase="Verifying", total_bytes=149 * GIB), {}, "EngineStarting", "verifying checksums"),
    "a model that another replica fetches": (
        fetching(phase="Waiting", message="waiting for another replica"), {}, "EngineStarting", "another replica"),
    "a model that could not be fetched": (
        fetching(phase="Failed", failure="no revision c0ffee: set model.revision"), {}, "ModelUnavailable", "c0ffee"),
    "a failed fetch that is only tried again": (
        fetching(phase="Resolving", failure="DNS is down"), {}, "ModelUnavailable", "DNS is down"),
    "a model that is there is no news any more": (
        fetching(phase="Complete", message="149.0 GiB"), {}, "EngineStarting", "launcher has not started yet"),
    "a pod that starts anew fetches before its engine": (
        replace(an_engine(), download=DownloadRecord(phase="Downloading"), starting_seconds=9000), {},
        "EngineStarting", "fetching"),
    "a large checkpoint has longer to load": (
        replace(an_engine(), starting_seconds=2600, checkpoint_bytes=100 * GIB), SCALED, "EngineStarting", "loading"),
    "and not for ever": (
        replace(an_engine(), starting_seconds=2800, checkpoint_bytes=100 * GIB), SCALED, "StartupHang",
        "within 2700 s"),
    "a small one has less": (
        replace(an_engine(), starting_seconds=1000, checkpoint_bytes=GIB), SCALED, "StartupHang", "within 918 s"),
    "one of unknown size has the usual time": (
        replace(an_engine(), starting_seconds=3500), SCALED, "EngineStarting", "loading"),
    "a checkpoint that its launcher rejected": (
        an_engine(phase="Exited", rejection="mtp.0.e_proj.weight is missing: take another",
                  exit=an_exit("ModelRejected: ...", code=3)), {}, "ModelRejected", "mtp.0.e_proj.weight is missing"),
    "one that it looks at again": (
        an_engine(phase="WaitingForFlags", starts=2, rejection="mtp.0.e_proj.weight is missing: take another",
                  exit=an_exit("ModelRejected: ...", code=3)), {}, "ModelRejected", "mtp.0.e_proj.weight is missing"),
    "an engine whose plugin was not imported": (
        tried(), {"pluginRequired": True}, "PluginAbsent", "nothing has checked"),
    "an engine whose plugin is active": (
        replace(tried(), engine=replace(RUNNING, plugin="flash plugin is active: vLLM 0.33.0")),
        {"pluginRequired": True}, "Passed", "85.0"),
    "an engine that loads": (an_engine(), {}, "EngineStarting", "loading"),
    "a healthy engine that was not tried": (
        Evidence(RUNNING, healthy=True, was_healthy=True), {}, "EngineStarting", "being measured"),
    "an engine that was healthy hours ago and is not now does not hang at its start": (
        replace(an_engine(), was_healthy=True, starting_seconds=9000), {}, "EngineStarting",
        "stopped answering /health"),
    "an engine that is not healthy in its time": (
        replace(an_engine(), starting_seconds=3700), {}, "StartupHang", "within 3600 s (started 3700 s ago)"),
    "an engine that calls itself healthy and gives no token": (
        stalled(), {}, "StartupHang", "not one token: the engine hangs; try interconnect.mode Safe"),
    "an engine that died once and hangs now": (
        replace(an_engine(exit=DIED), starting_seconds=3700), {}, "StartupHang", "interconnect.mode Safe"),
    "an engine that died, by the cause among its words": (
        an_engine(phase="Exited", exit=DIED), {}, "EngineExited", "exit code 1 (1 start so far): ValueError: no MTP"),
    "an engine that died without a word": (
        an_engine(phase="Exited", exit=an_exit(), starts=3), {}, "EngineExited",
        "(3 starts so far): it logged nothing"),
    "an engine that crashed by a signal": (
        an_engine(exit=an_exit(code=None, signal="SIGSEGV")), {}, "EngineExited", "signal SIGSEGV"),
    "an exit that the engine has been healthy since is no news": (
        replace(an_engine(exit=DIED), was_healthy=True, recovered_from=DIED), {}, "EngineStarting",
        "stopped answering /health"),
    "an engine that says that it ran out of memory": (
        an_engine(exit=an_exit("torch.OutOfMemoryError: CUDA out of memory.")), {}, "OutOfMemory", "memoryPercent"),
    "an engine that the kernel killed for lack of memory": (
        an_engine(exit=replace(an_exit(code=None, signal="SIGKILL"), oom_kills=1)), {}, "OutOfMemory",
        "signal SIGKILL"),
    "an engine that somebody killed": (
        an_engine(exit=an_exit(code=None, signal="SIGKILL")), {}, "EngineExited", "does not record what killed it"),
    "a crash under the safe flags, for which they are no remedy": (
        an_engine(exit=an_exit(code=None, signal="SIGSEGV"), incident=Incident("hang", "S1")), {}, "EngineExited",
        "the safe flags are already in use"),
    "an engine that was stopped": (
        an_engine(phase="Exited", exit=replace(STOPPED, ended_by="StopTimeout")), {}, "EngineExited",
        "the launcher killed the engine"),
    "an engine that was stopped and loads again is no news": (
        an_engine(exit=replace(STOPPED, ended_by="Stop")), {}, "EngineStarting",
        "loading; previously, the engine stopped"),
    "an engine whose node was restarted and that loads again is no news": (
        an_engine(phase="WaitingForFlags", exit=replace(STOPPED, ended_by="Reboot")), {}, "EngineStarting",
        "flags; previously, the engine ended because its node"),
    "an engine that was killed with its container and loads again": (
        an_engine(exit=replace(STOPPED, ended_by="Container")), {}, "EngineExited", "OOMKilled"),
    "an engine whose all-reduce met memory that cannot be shared": (
        an_engine(exit=an_exit(UNSHARED, "RuntimeError: Engine core initialization failed.")),
        {}, "EngineExited", "so remove that setting from PYTORCH_ALLOC_CONF or PYTORCH_CUDA_ALLOC_CONF"),
    "a measurement that broke": (
        tried(doubt="/v1/completions: HTTP 500"), {}, "Inconclusive", "HTTP 500; measuring again in 30 s"),
    "other people's tokens": (
        tried(foreign_tokens=16), {}, "Inconclusive", "16 tokens for other clients while 384 were timed"),
    "other people's request of one token": (
        tried(foreign_requests=1), {}, "Inconclusive", "1 requests for other clients"),
    "counters that stand still": (
        tried(counted_tokens=0), {}, "Inconclusive", "rose by 0 while 384 tokens arrived"),
    "counters that were reset": (tried(drafted=-20), {}, "Inconclusive", "170 of -20"),
    "more drafts accepted than made": (tried(drafted=100), {}, "Inconclusive", "170 of 100"),
    "a wrong answer": (answered("41.", "41."), {}, "WrongOutput", "'41.' does not contain '42'"),
    "an empty answer": (answered("", ""), {}, "WrongOutput", "is empty"),
    "two answers to a question whose answer is unknown": (
        answered("yes", "no"), NO_EXPECTATION, "WrongOutput",
        "'yes' and 'no': equally good answers may be worded differently, so put the right one into"),
    "a wrong answer among many requests": (
        among_many("42", "17"), {"decode": {**DECODE, "streams": 2}}, "WrongOutput",
        "'17' among 2 concurrent requests"),
    "a long answer that is right": (
        long_answered(COUNT), COUNTED, "Passed", "85.0"),
    "a long answer after some thought": (
        long_answered(f"The user wants 30 numbers. {COUNT}."), COUNTED, "Passed", "85.0"),
    "a long answer that goes wrong after a good beginning": (
        long_answered(COUNT.replace("23", "24")), COUNTED, "WrongOutput", "the long answer '1, 2, 3,"),
    "a long answer that goes on in nonsense": (
        long_answered(f"{COUNT}{'!' * 40}"), COUNTED, "WrongOutput", "does not contain"),
    "a long answer that ends early": (long_answered(COUNT[:40]), COUNTED, "WrongOutput", "the long answer"),
    "a long answer of which nobody asks any more": (long_answered("nonsense"), {}, "Passed", "85.0"),
    "two long answers of an engine that may round differently": (
        long_answered(COUNT, f"{COUNT}."), COUNTED, "Passed", "85.0"),
    "two long answers of a deterministic engine": (
        long_answered(COUNT, f"{COUNT}."), COUNTED | {"deterministic": True}, "WrongOutput", "different answers"),
    "two right answers of a deterministic engine": (
        answered("42", "It is 42."), {"deterministic": True}, "WrongOutput", "different answers"),
    "timed texts of a deterministic engine, of which one was cut": (
        timed("The keeper of the light went up", "The keeper of"), {"deterministic": True}, "Passed", "85.0"),
    "timed texts that differ on a deterministic engine": (
        timed("The keeper of the light", "The keeper of a lamp"), {"deterministic": True}, "WrongOutput",
        "different answers, 'The keeper of the li' and 'The keeper of a lamp'"),
    "timed texts that differ elsewhere": (timed("The keeper", "A keeper"), {}, "Passed", "85.0"),
    "a special token in a timed text": (
        timed(f"The keeper {BEGINNING} of"), {}, "WrongOutput", "contains the special token <"),
    "a user's turn in a timed text that goes on after its end": (
        timed("The end.<\uff5cUser\uff5c>Another one, please"), {}, "Passed", "85.0"),
    "a special token in a concurrent text": (
        among_many("42", "42", streams=("Once", f"upon{BEGINNING}")), {}, "WrongOutput", "contains the special token"),
    "a long answer that goes wrong among many": (
        among_many("42", "42", long_answers=(COUNT.replace("7", "8"),)), COUNTED, "WrongOutput",
        "among 1 concurrent requests"),
    "other words among many requests": (
        among_many("yes", "no"), NO_EXPECTATION, "Passed", "85.0"),
    "two wordings of the right answer": (answered("42", "It is 42."), {}, "Passed", "85.0"),
    "one character over and over": (answered("!" * 32, "!" * 32), NO_EXPECTATION, "WrongOutput", "repeats itself"),
    "one word over and over": (answered(" the" * 16, " the" * 16), NO_EXPECTATION, "WrongOutput", "repeats itself"),
    "one piece of a word over and over": (answered("ab" * 16, "ab" * 16), NO_EXPECTATION, "WrongOutput", "repeats"),
    "a short answer is no repetition": (answered("...", "..."), NO_EXPECTATION, "Passed", "85.0"),
    "a refrain is no repetition": (
        answered("row row row your boat " * 3, "row row row your boat " * 3), NO_EXPECTATION, "Passed", "85.0"),
    "drafts expected and no counters for them": (
        tried(drafted=None, accepted=None), {}, "SpeculationAbsent", "exports no draft counters over 384 tokens"),
    "drafts expected and none made": (
        tried(drafted=0, accepted=0), {}, "SpeculationAbsent", "drafted no token over 384 tokens"),
    "nobody asked for drafts": (
        tried(drafted=None, accepted=None), {"speculation": {"expected": False}}, "Passed", "85.0"),
    "drafts that nobody asked for are not judged": (
        tried(accepted=0), {"speculation": {"expected": False}}, "Passed", "85.0"),
    "no draft accepted": (tried(accepted=0), {}, "DraftDead", "0 of 200 drafted tokens accepted"),
    "as few as a head of random weights": (tried(drafted=382, accepted=6), {}, "DraftDead", "6 of 382"),
    "a dead draft that makes the engine slow is called by its cause": (
        tried(accepted=0, decode_tokens_per_second=40.0), {}, "DraftDead", "40.0 tok/s"),
    "a poor draft that lives": (
        tried(accepted=50), {}, "AcceptanceTooLow", "25.0 % of 200 drafted tokens accepted, wanted at least 40 %"),
    "five drafted tokens of a good module": (
        tried(**FIVE), DSPARK, "Passed", "34 % of drafts accepted (2.68 tokens per step)"),
    "five drafted tokens, and no counters by position": (
        tried(**FIVE | {"accepted_per_position": ()}), DSPARK, "Passed", "34 %"),
    "five drafted tokens, the first mostly wrong": (
        tried(**FIVE | {"accepted": 100, "accepted_per_position": (30, 28, 20, 12, 10)}), DSPARK,
        "AcceptanceTooLow", "in 30.0 % of 100 steps, wanted at least 40 % (by position: 30, 28, 20, 12, 10 %)"),
    "five drafted tokens, only the first ever right": (
        tried(**FIVE | {"accepted": 76, "accepted_per_position": (74, 2, 0, 0, 0)}), DSPARK, "AcceptanceTooLow",
        "1.76 tokens per step, wanted at least 1.92 (by position: 74, 2, 0, 0, 0 %)"),
    "five drafted tokens, the first one right by chance": (
        tried(**FIVE | {"accepted": 1, "accepted_per_position": (1, 0, 0, 0, 0)}), DSPARK, "DraftDead", "1 of 500"),
    "the first one right three times": (
        tried(**FIVE | {"accepted": 3, "accepted_per_position": (3, 0, 0, 0, 0)}), DSPARK, "DraftDead", "3 of 500"),
    "more of the first tokens right than a share of all shows": (
        tried(**FIVE | {"accepted": 10, "accepted_per_position": (10, 0, 0, 0, 0)}), DSPARK, "AcceptanceTooLow",
        "in 10.0 % of 100 steps"),
    "a slow engine": (
        tried(decode_tokens_per_second=41.2), {}, "TooSlow", "decode 41.2 tok/s, wanted at least 60: check the"),
    "a learned floor that is higher than the fixed one": (
        tried(), {"learned": {"minTokensPerSecond": 90, "told": "learned from 5"}}, "TooSlow", "90 (learned from 5)"),
    "a learned floor that is lower than the fixed one": (
        tried(), {"learned": {"minTokensPerSecond": 50, "told": "learned from 5"}}, "Passed", "at least 60,"),
    "a slow first token": (
        tried(first_token_millis=800.0), {}, "FirstTokenTooSlow", "after 800 ms, wanted at most 500 ms"),
    "a long prompt that is read and followed as it should be": (
        tried(**DEEP), LONG, "Passed",
        "a prompt of 4096 tokens read at 3100 tok/s (1.3 s to its first token), then decode 70.0 tok/s"),
    "a long prompt exactly at its floors": (
        tried(**DEEP | {"prefill_tokens_per_second": 500.0, "depth_decode_tokens_per_second": 45.0}), LONG, "Passed",
        "read at 500 tok/s"),
    "a long prompt that is read slowly": (
        tried(**DEEP | {"prefill_tokens_per_second": 310.0}), LONG, "PrefillTooSlow",
        "read at 310 tok/s (1.3 s to its first token), wanted at least 500: check"),
    "a long prompt that is read for ever": (
        tried(**DEEP | {"prefill_tokens_per_second": 49.0, "prompt_first_token_millis": 83000.0,
                        "depth_decode_tokens_per_second": None}), LONG, "PrefillTooSlow",
        "had no first token within 83 s, wanted at least 500"),
    "a long prompt that is read slowly where nobody minds": (
        tried(**DEEP | {"prefill_tokens_per_second": 1.0}), {"longPrompt": {"tokens": 4096}}, "Passed", "1 tok/s"),
    "slow after a long prompt alone": (
        tried(**DEEP | {"depth_decode_tokens_per_second": 31.0}), LONG, "TooSlowAtDepth",
        "decode 31.0 tok/s after a prompt of 4096 tokens, wanted at least 45.0 (75 % of 60), and 85.0 tok/s after"),
    "a learned floor holds at depth as well": (
        tried(**DEEP), LONG | {"learned": {"minTokensPerSecond": 84, "told": "learned from 5"}}, "Passed", "70.0"),
    "a broken parser": (
        broken(Reason.TOOL_CALLS_BROKEN), {"features": {"toolCalls": True}}, "Passed",
        "; warning: ToolCallsBroken: tool calls: as text: check --tool-call-parser"),
    "a broken parser of calls that is required": (
        broken(Reason.TOOL_CALLS_BROKEN), {"features": {"required": True}}, "ToolCallsBroken", "as text: check"),
    "a broken parser of thoughts that is required": (
        broken(Reason.REASONING_BROKEN), {"features": {"required": True}}, "ReasoningBroken", "as text: check"),
    "a schema that is not followed, and required": (
        broken(Reason.JSON_SCHEMA_BROKEN), {"features": {"required": True}}, "JsonSchemaBroken", "as text: check"),
    "a broken parser of which nobody asks any more": (
        broken(Reason.TOOL_CALLS_BROKEN), {}, "Passed", "after 120 ms"),
    "nonsense after a long prompt": (
        deep("!" * 40), {"longPrompt": {"tokens": 4096, "textIsJudged": True}}, "WrongOutput",
        "the text after a prompt of 4000 tokens, '!!!!!!!!"),
    "nonsense of a model that has learned no more": (
        deep("!" * 40), {"longPrompt": {"tokens": 4096}}, "Passed", "85.0"),
    "a trial without a long prompt, restored": (tried(), LONG, "Passed", "85.0"),
    "a slow first token where no ceiling is set": (
        tried(first_token_millis=800.0), {"maxFirstTokenMillis": None}, "Passed", "800 ms"),
}  # fmt: skip


@pytest.mark.parametrize(("evidence", "changes", "reason", "message"), CASES.values(), ids=CASES.keys())
def test_the_verdict(evidence: Evidence, changes: dict[str, Any], reason: str, message: str) -> None:
    config = GateConfig.model_validate(CONFIG.model_dump() | changes)

    verdict = judge(evidence, config)

    assert (verdict.reason, verdict.passed) == (reason, reason == "Passed")
    assert message in verdict.message


def test_every_reason_is_reached_except_degraded() -> None:
    assert {reason for _, _, reason, _ in CASES.values()} == set(Reason) - {"Degraded"}


def test_the_operator_explains_every_reason_that_the_gate_has() -> None:
    assert set(Reason) == set(MEANINGS)


DEGENERATE = {
    "one character": "!" * 40,
    "a right beginning": "42" + "!" * 40,
    "a word": "the " * 40,
    "a word after a sentence": "Once upon a time there was " + "and " * 40,
    "an ideogram": "的" * 60,
    "a piece of a word": "lalalalalalalalalalala",
}
SOUND = {
    "nothing": "",
    "a story": "The old keeper of the lighthouse wrote down each ship that passed his rock at night. " * 3,
    "a table": "| a | b |\n|-----------|-----------|\n| one | two |\n| three and a bit | four of them |",
    "a rule between paragraphs": "The first part ends here.\n\n----------\n\nAnd this is how the second one begins.",
    "a laugh": "Hahahahahahaha, said the keeper, and went up the stairs to look after his lamp.",
    "numbers": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20",
}


@pytest.mark.parametrize("text", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_a_text_is_degenerate(text: str) -> None:
    assert is_degenerate(text)


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND.keys())
def test_a_text_is_sound(text: str) -> None:
    assert not is_degenerate(text)


def test_a_long_text_is_checked_quickly() -> None:
    """A pattern that backtracks would stop the gate."""
    words = " ".join(str(number * 7919 % 10007) for number in range(4000))
    assert not is_degenerate(words[:16384])


ANSWERS = {
    "42": True, " 42.": True, "The answer is **42**.": True, "17 + 25 = 42": True, "\\boxed{42}": True,
    "42!!!!!!": False, "442": False, "1742": False, "4242424242424242": False, "0x42 !!!!!!": False, "43": False,
    "42 is wrong": False, "<\uff5cbegin\u2581of\u2581sentence\uff5c>42": False, "<|im_start|>42": False,
}  # fmt: skip


@pytest.mark.parametrize(("text", "right"), ANSWERS.items())
def test_an_answer_to_the_default_question_is(text: str, *, right: bool) -> None:
    golden = {"prompt": "17 + 25?", "expect": DEFAULT_ANSWER}
    config = GateConfig.model_validate({"model": "m", "golden": golden, "decode": DECODE})
    assert (golden_fault(GoldenAnswers((text, text)), config) is None) is right
