"""The combined speed of concurrent requests, and what follows from it."""

from dataclasses import replace

import pytest

from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_config import GateConfig
from flash_contracts.trial_record import ConcurrentRound
from flash_engine.gate.concurrent_speed import combined_rate, fastest, is_disturbed, needs_another_round
from flash_engine.gate.evidence import Evidence, GoldenAnswers, Trial
from flash_engine.gate.judge import judge
from flash_engine.gate.measurement import Measurement, Stream

FLOOR = 60.0
CONFIG = GateConfig.model_validate(
    {
        "model": "m",
        "golden": {"prompt": "17 + 25?", "expect": "42"},
        "decode": {"minTokensPerSecond": FLOOR, "prompt": "p", "streams": 4},
    }
)
FIGURES = Measurement(
    decode_tokens_per_second=85.0, first_token_millis=120.0, tokens=384, drafted=200, accepted=170,
    duration_millis=5000, counted_tokens=384, foreign_tokens=0, foreign_requests=0,
)  # fmt: skip


def a_round(speed: float, *, disturbed: bool = False) -> ConcurrentRound:
    return ConcurrentRound(4, speed, ("42",) * 4, disturbed=disturbed)


FAST, SLOW, VAGUE = a_round(110.0), a_round(40.0), a_round(30.0, disturbed=True)


def verdict_on(found: ConcurrentRound | None, config: GateConfig = CONFIG) -> tuple[str, str]:
    evidence = Evidence(EngineRecord("Starting", 7, "2026-11-24T12:00:00Z", 1), healthy=True, was_healthy=True)
    trial = Trial(GoldenAnswers(("42", "42")), FIGURES, concurrent_round=found)
    verdict = judge(replace(evidence, trial=trial), config)
    return verdict.reason, verdict.message


def test_concurrent_requests_slower_together_than_the_floor_of_one_are_too_slow() -> None:
    reason, message = verdict_on(SLOW)
    assert reason == "TooSlow"
    assert "4 requests at once decode 40.0 tok/s together, wanted at least 60" in message
    assert "engine.maxSequences" in message


PASS = {
    "a crowd that is faster": FAST,
    "a crowd that is as fast": a_round(FLOOR),
    "a crowd whose speed is unknown": VAGUE,
    "no crowd": None,
}


@pytest.mark.parametrize("found", PASS.values(), ids=PASS.keys())
def test_an_engine_passes_with(found: ConcurrentRound | None) -> None:
    assert verdict_on(found)[0] == "Passed"


def test_a_raised_floor_judges_the_concurrent_round_again() -> None:
    raised = CONFIG.model_copy(update={"decode": CONFIG.decode.model_copy(update={"min_tokens_per_second": 80})})
    assert verdict_on(a_round(70.0), raised)[0] == "TooSlow"


ROUNDS: dict[str, tuple[tuple[ConcurrentRound, ...], bool]] = {
    "a fast one": ((FAST,), False),
    "a fast one, although disturbed": ((a_round(110.0, disturbed=True),), False),
    "a slow one": ((SLOW,), True),
    "a slow one and a fast one": ((SLOW, FAST), False),
    "two slow ones": ((SLOW, SLOW), False),
    "two of which one is disturbed": ((SLOW, VAGUE), True),
    "three": ((VAGUE, SLOW, VAGUE), False),
}


@pytest.mark.parametrize(("rounds", "needs"), ROUNDS.values(), ids=ROUNDS.keys())
def test_another_round_is_needed_after(rounds: tuple[ConcurrentRound, ...], needs: bool) -> None:  # noqa: FBT001
    assert needs_another_round(rounds, FLOOR) is needs


def test_the_fastest_undisturbed_round_counts_and_all_answers() -> None:
    found = fastest([SLOW, VAGUE, replace(a_round(45.0), texts=("41",))], FLOOR)
    assert (found.tokens_per_second, found.disturbed) == (45.0, False)
    assert len(found.texts) == 9
    assert "41" in found.texts
    assert fastest([SLOW, a_round(110.0, disturbed=True)], FLOOR).tokens_per_second == 110.0


def a_stream(first: float, last: float, tokens: int = 128) -> Stream:
    return Stream(asked=0.0, first=first, last=last, tokens=tokens)


def test_the_speed_of_a_concurrent_round_is_all_tokens_over_its_time() -> None:
    assert combined_rate([a_stream(1.0, 5.0), a_stream(1.5, 5.0), a_stream(2.0, 6.0)]) == pytest.approx(3 * 127 / 5)
    assert combined_rate([a_stream(1.0, 1.0)]) == 0.0


STREAMS = [a_stream(1.0, 5.0), a_stream(1.0, 5.0)]
DISTURBED: dict[str, tuple[int, float, bool]] = {
    "nothing": (2, 256 + 16, False),
    "a stream that broke and was sent again": (3, 256 + 16, True),
    "another client": (2, 1000.0, True),
    "counters that were reset": (2, -5.0, True),
}


@pytest.mark.parametrize(("tries", "counted", "disturbed"), DISTURBED.values(), ids=DISTURBED.keys())
def test_a_round_is_disturbed_by(tries: int, counted: float, disturbed: bool) -> None:  # noqa: FBT001
    assert is_disturbed(STREAMS, tries=tries, counted=counted, answer_tokens=8) is disturbed
