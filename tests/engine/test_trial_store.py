"""What a gate that is restarted still knows of the trial that its engine passed, and of files of earlier gates."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_config import GateConfig
from flash_contracts.gate_result import Degradation
from flash_contracts.trial_record import ConcurrentRound, FeatureFault, LongPrompt, Stall, TrialRecord
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.answer_checks import TextKind
from flash_engine.gate.evidence import EngineHealth, GoldenAnswers, Trial
from flash_engine.gate.gate_state import GateState, Instant
from flash_engine.gate.measurement import Measurement
from flash_engine.gate.observations import ConfigRead, EngineObserved, StoredTrialRead
from flash_engine.gate.result import result_of
from flash_engine.gate.state_machine import step
from flash_engine.gate.trial_store import StoredTrial, TrialStore

RUN = EngineRecord("Starting", 7, "2026-11-24T12:00:00.000Z", starts=1)
CONFIG = GateConfig.model_validate(
    {
        "model": "m",
        "speculation": {"expected": False},
        "golden": {"prompt": "17 + 25?", "expect": "42"},
        "decode": {"minTokensPerSecond": 60, "prompt": "p"},
        "longPrompt": {"tokens": 4096, "textIsJudged": True},
        "features": {"toolCalls": True},
    }
)
FIGURES = Measurement(
    decode_tokens_per_second=85.0, first_token_millis=120.0, tokens=384, drafted=200, accepted=170,
    duration_millis=5000, counted_tokens=384, foreign_tokens=0, foreign_requests=0, accepted_per_position=(90, 80),
    prompt_tokens=4096, prefill_tokens_per_second=3100.0, depth_decode_tokens_per_second=70.0,
)  # fmt: skip
TRIAL = Trial(
    GoldenAnswers(("42", "42")),
    FIGURES,
    concurrent_round=ConcurrentRound(2, 160.0, ("42", "42"), ("a", "b"), long_answers=("1, 2",)),
    long_answers=("1, 2", "1, 2"),
    long_prompts=(LongPrompt(4096, 1300.0, 70.0, "a quiet night"),),
    broken_features=(FeatureFault(Reason.TOOL_CALLS_BROKEN, "the call is in the text"),),
)
STORED = StoredTrial(
    TRIAL,
    {TextKind.GOLDEN: CONFIG.golden.identity},
    Degradation("slow", "then", measured=True),
    Stall(1.0, 2.0, 3.0),
    incident_refuted=True,
)


def restored(folder: Path, config: GateConfig = CONFIG) -> StoredTrial | None:
    return TrialStore(folder / TrialRecord.FILE).restore(RUN, config)


def test_what_a_gate_stored_is_restored_whole(tmp_path: Path) -> None:
    TrialStore(tmp_path / TrialRecord.FILE).store(STORED, RUN, CONFIG)
    assert restored(tmp_path) == STORED


def after_restart(stored: StoredTrial, config: GateConfig = CONFIG) -> GateState:
    at = Instant(100.0, "now")
    state = step(GateState(), ConfigRead(config), at)[0]
    state = step(state, EngineObserved(EngineHealth.GOOD, RUN, 100.0), at)[0]
    return step(state, StoredTrialRead(config, stored), at)[0]


def test_warnings_outlive_a_restart_of_the_gate() -> None:
    result = result_of(after_restart(StoredTrial(TRIAL)), CONFIG, None)
    assert (result.passed, result.trial and [warning.reason for warning in result.trial.warnings]) == (
        True, ["ToolCallsBroken"])  # fmt: skip
    assert "ToolCallsBroken" in result.message


def test_a_feature_that_is_required_after_a_restart_is_judged_by_the_stored_trial() -> None:
    required = CONFIG.model_copy(update={"features": CONFIG.features and CONFIG.features.model_copy(
        update={"required": True})})  # fmt: skip
    assert after_restart(StoredTrial(TRIAL), required).verdict.reason == "ToolCallsBroken"


def test_a_text_after_a_long_prompt_is_judged_after_a_restart() -> None:
    """gate.json may begin to judge it while the gate is away."""
    wrong = replace(TRIAL, long_prompts=(LongPrompt(4096, 1300.0, 70.0, "!" * 90),))
    assert after_restart(StoredTrial(wrong)).verdict.reason == "WrongOutput"


def a_former_file(**changes: Any) -> dict[str, Any]:
    """As gates before 0.2 wrote it."""
    return {
        "version": 1, "pid": 7, "startedAt": RUN.started_at, "asked": json.dumps(CONFIG.asked),
        "goldenAnswers": ["42", "42"], "expect": "42",
        "figures": {
            "decodeTokensPerSecond": 85.0, "firstTokenMillis": 120.0, "tokens": 384, "drafted": 200, "accepted": 170,
            "durationMillis": 5000, "countedTokens": 384, "foreignTokens": 0, "foreignRequests": 0,
        },
        "concurrentRound": {"streams": 4, "tokensPerSecond": 200.0},
        "degraded": {"message": "slow", "since": "then", "measured": False},
        "stall": None,
        **changes,
    }  # fmt: skip


def test_a_file_of_an_earlier_gate_is_read(tmp_path: Path) -> None:
    (tmp_path / TrialRecord.FILE).write_text(json.dumps(a_former_file()))
    found = restored(tmp_path)
    assert found is not None
    assert (found.right, found.degraded) == (STORED.right, Degradation("slow", "then"))
    assert found.trial.concurrent_round == ConcurrentRound(4, 200.0)
    assert after_restart(found).ready


LATER: dict[str, dict[str, Any]] = {
    "a reason that this gate does not know": {"brokenFeatures": [{"reason": "SmellBroken", "detail": "d"}]},
    "a kind of text that it does not know": {"right": {"golden": CONFIG.golden.identity, "smell": "0123"}},
    "a field that it does not know": {"mood": 7},
    "texts of another form": {"longPrompts": 7, "longAnswers": {}},
}


@pytest.mark.parametrize("changes", LATER.values(), ids=LATER.keys())
def test_what_a_later_gate_adds_does_not_cost_readiness(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / TrialRecord.FILE).write_text(json.dumps(a_former_file(**changes)))
    found = restored(tmp_path)
    assert found is not None
    assert found.right == STORED.right
