"""Which wrong texts of a trial start the recovery with the safe flags, and which right ones prove an incident."""

from dataclasses import replace

import pytest

from flash_contracts.engine_pod import FaultReport
from flash_contracts.engine_record import EngineRecord, Incident
from flash_contracts.gate_config import GateConfig
from flash_contracts.trial_record import ConcurrentRound, LongPrompt
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.actions import Action, ReportFault, WithdrawFault
from flash_engine.gate.answer_checks import TextKind, identity
from flash_engine.gate.evidence import EngineHealth, GoldenAnswers, Trial
from flash_engine.gate.gate_state import GateState, Instant, TrialKind
from flash_engine.gate.measurement import Measurement, Sample, Stream
from flash_engine.gate.observations import ConfigRead, EngineObserved, TrialFinished
from flash_engine.gate.result import result_of
from flash_engine.gate.state_machine import step
from flash_operator.api.v1alpha1 import LONG_ANSWER, LONG_QUESTION

LATER = "2026-11-24T13:00:00.000Z"
STOOD = EngineCounters(generated=5, running=1, drafted=None, accepted=None)
COUNT = ", ".join(map(str, range(1, 31)))
NONSENSE = "!" * 200
STORY = "The keeper lit the lamp, and the ships came home one by one before the fog."
BEGIN = "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
TALK = GateConfig.model_validate(
    {
        "model": "m",
        "speculation": {"tokens": 2},
        "golden": {"prompt": "17 + 25?", "expect": "42"},
        "longAnswer": {"prompt": LONG_QUESTION, "expect": LONG_ANSWER, "maxTokens": 160},
        "decode": {"minTokensPerSecond": 60, "prompt": "tell", "streams": 4},
        "longPrompt": {"tokens": 4096, "textIsJudged": True},
    }
)
FIGURES = Measurement(
    decode_tokens_per_second=85.0, first_token_millis=120.0, tokens=384, drafted=200, accepted=170,
    duration_millis=5000, counted_tokens=384, foreign_tokens=0, foreign_requests=0,
)  # fmt: skip
RECORD = EngineRecord(phase="Starting", pid=7, started_at="2026-11-24T12:00:00.000Z", starts=1)


def a_trial(
    golden: str = "42", counted: str = COUNT, timed: str = STORY, deep: str = STORY, among: str = "42",
    counted_among: str = COUNT, beside: str = STORY,
) -> Trial:  # fmt: skip
    """A whole trial, whose texts are right but for those that are given."""
    sample = Sample(Stream(0, 1, 2, 16, text=timed), STOOD, STOOD)
    return Trial(
        GoldenAnswers((golden, golden)),
        replace(FIGURES, samples=(sample,)),
        long_answers=(counted,),
        long_prompts=(LongPrompt(4096, 1000.0, 80.0, deep),),
        concurrent_round=ConcurrentRound(4, 200.0, (among,), (beside,), long_answers=(counted_among,)),
    )


def after(*trials: Trial, config: GateConfig = TALK, record: EngineRecord = RECORD) -> tuple[GateState, list[Action]]:
    """The gate after these trials of one run, and the actions that followed from the last one."""
    observed, at = EngineObserved(EngineHealth.GOOD, record, 100.0), Instant(100.0, LATER)
    state, _ = step(step(GateState(), ConfigRead(config), at)[0], observed, at)
    actions: tuple[Action, ...] = ()
    for one in trials:
        state, actions = step(state, TrialFinished(one, TrialKind.ADMISSION, config, at, observed), at)
    return state, list(actions)


def reported(actions: list[Action]) -> list[FaultReport]:
    return [action.report for action in actions if isinstance(action, ReportFault)]


WRONG_TEXTS: dict[str, tuple[Trial, TextKind]] = {
    "a golden answer": (a_trial(golden="41"), TextKind.GOLDEN),
    "a long answer that is nonsense": (a_trial(counted=NONSENSE), TextKind.LONG_ANSWER),
    "a long answer that skips a number": (a_trial(counted=COUNT.replace(" 17,", "")), TextKind.LONG_ANSWER),
    "an empty long answer": (a_trial(counted=""), TextKind.LONG_ANSWER),
    "a timed text": (a_trial(timed=NONSENSE), TextKind.TIMED),
    "a timed text that turns into nonsense": (a_trial(timed=STORY + NONSENSE), TextKind.TIMED),
    "a timed text of special tokens only": (a_trial(timed=BEGIN * 20), TextKind.TIMED),
    "a text after a long prompt": (a_trial(deep=NONSENSE), TextKind.DEPTH),
    "a golden answer among others": (a_trial(among="43"), TextKind.CONCURRENT),
    "a long answer among others": (a_trial(counted_among=NONSENSE), TextKind.CONCURRENT),
    "a text beside others": (a_trial(beside=NONSENSE), TextKind.CONCURRENT),
    "a timed text that leaks a token, and nonsense at depth": (
        a_trial(timed=BEGIN + STORY, deep=NONSENSE), TextKind.DEPTH),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "kind"), WRONG_TEXTS.values(), ids=WRONG_TEXTS.keys())
def test_every_wrong_text_starts_the_recovery(wrong: Trial, kind: TextKind) -> None:
    state, actions = after(wrong)
    (report,) = reported(actions)
    assert (report.kind, report.signature, report.run) == ("corrupt", "S4", RECORD.run)
    assert (report.asked, report.message) == (identity(kind, TALK), state.verdict.message)
    assert WithdrawFault() not in actions


LEAKS = {
    "in a golden answer": a_trial(golden=f"42{BEGIN}"),
    "in a long answer": a_trial(counted=f"{BEGIN}{COUNT}"),
    "in a timed text": a_trial(timed=f"{BEGIN}{STORY} {BEGIN} {STORY}"),
    "at depth": a_trial(deep=STORY + BEGIN),
    "in a crowd": a_trial(beside=STORY + BEGIN),
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
def test_a_leaked_special_token_in_a_right_text_is_not_the_links_fault(leak: Trial) -> None:
    state, actions = after(leak)
    assert (state.verdict.reason, reported(actions)) == ("WrongOutput", [])
    assert "speculation.tokens to 1" in state.verdict.message


def test_a_right_text_of_the_former_question_of_its_kind_clears_the_links() -> None:
    """A new version's questions would otherwise restart all engines of a deployment at once, if they were bad."""
    asks_for_more = TALK.long_answer.model_copy(update={"expect": "31"}) if TALK.long_answer else None
    config = TALK.model_copy(update={"long_answer": asks_for_more})
    observed, at = EngineObserved(EngineHealth.GOOD, RECORD, 100.0), Instant(100.0, LATER)
    state, _ = after(a_trial())
    state, actions = step(state, TrialFinished(a_trial(), TrialKind.RECHECK, config, at, observed), at)
    assert (state.verdict.reason, reported(list(actions))) == ("Passed", [])
    state, _ = step(state, ConfigRead(config), at)
    state, actions = step(state, TrialFinished(a_trial(), TrialKind.RECHECK, config, at, observed), at)
    assert (state.verdict.reason, reported(list(actions))) == ("WrongOutput", [])


def test_a_kind_of_text_that_is_asked_for_later_restarts_no_engine_that_was_right_so_far() -> None:
    """`readiness.streams: Full` shows a fault of a kernel, say, in all engines at once. To undo it must be enough."""
    alone = replace(a_trial(), concurrent_round=None)
    state, actions = after(alone, a_trial(beside=NONSENSE))
    assert (state.verdict.reason, reported(actions)) == ("WrongOutput", [])


def test_a_text_that_turns_wrong_restarts_an_engine_that_was_right_so_far() -> None:
    (report,) = reported(after(a_trial(), a_trial(timed=NONSENSE))[1])
    assert report.asked == identity(TextKind.TIMED, TALK)


def test_a_report_that_could_not_be_written_is_made_again() -> None:
    wrong = a_trial(timed=NONSENSE)
    assert len(reported(after(wrong, wrong)[1])) == 1


def test_a_stream_that_stalls_after_a_right_golden_answer_is_reported() -> None:
    """Only then the launcher looks whether the engine computes, and restarts it if it does not."""
    stalled = replace(a_trial(), measurement=None, doubt="no token for half of its time", stalled=True)
    (report,) = reported(after(stalled)[1])
    assert (report.kind, report.signature) == ("hang", "S3")


def proven(kind: TextKind, *trials: Trial) -> bool:
    """Whether these trials of a run without peer-to-peer prove an incident that a text of this kind was about."""
    incident = Incident("corrupt", "S4", asked=identity(kind, TALK) or "")
    state, _ = after(*trials, record=replace(RECORD, incident=incident))
    return result_of(state, TALK, None).incident_proven


PROVEN = {TextKind.GOLDEN, TextKind.LONG_ANSWER, TextKind.TIMED}


@pytest.mark.parametrize("kind", TextKind)
def test_an_incident_is_proven_by_the_same_text_of_one_request_alone(kind: TextKind) -> None:
    assert proven(kind, a_trial()) is (kind in PROVEN)


@pytest.mark.parametrize("wrong", [a_trial(timed=NONSENSE), a_trial(golden="41"), a_trial(beside=NONSENSE)])
def test_nothing_is_proven_while_a_text_is_wrong(wrong: Trial) -> None:
    assert not any(proven(kind, wrong) for kind in TextKind)


def test_a_text_that_was_wrong_without_peer_to_peer_too_proves_nothing_once_it_is_right() -> None:
    assert not proven(TextKind.TIMED, a_trial(timed=NONSENSE), a_trial())
    assert proven(TextKind.TIMED, a_trial(beside=NONSENSE), a_trial()), "the wrong one was another kind"


def test_the_message_of_a_text_that_stays_wrong_names_another_cause() -> None:
    incident = Incident("corrupt", "S4", asked=identity(TextKind.CONCURRENT, TALK) or "")
    state, actions = after(a_trial(beside=NONSENSE), record=replace(RECORD, incident=incident))
    assert "the links are not the cause: a kernel is wrong when it batches requests" in state.verdict.message
    assert "engine.maxSequences" in state.verdict.message
    assert len(reported(actions)) == 1, "the launcher knows that nothing safer is left"
