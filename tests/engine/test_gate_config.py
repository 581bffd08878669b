"""Changes of gate.json while the pod runs: what is judged again, what is measured again, and what must not fail."""

from pathlib import Path

import pytest

from flash_contracts.gate_config import BadConfigError, GateConfig
from gate_harness import GateHarness


async def test_another_number_of_samples_is_not_measured_again(harness: GateHarness) -> None:
    await harness.observe()
    harness.configure(decode={"samples": 9})
    assert (await harness.observe()).verdict.reason == "Passed"
    assert harness.gate.state.attempts == 1


async def test_another_expected_answer_judges_the_existing_answers(harness: GateHarness) -> None:
    await harness.observe()
    harness.configure(golden={"expect": "43"}, retrySeconds=3600)
    state = await harness.observe()
    assert (state.verdict.reason, state.attempts) == ("WrongOutput", 1)


async def test_a_corrected_expectation_is_measured_at_once(harness: GateHarness) -> None:
    """Nothing was timed while the answer counted as wrong, so there is nothing to judge again."""
    harness.configure(golden={"expect": "43"}, retrySeconds=3600)
    assert (await harness.observe()).verdict.reason == "WrongOutput"
    harness.configure(golden={"expect": "42"})
    assert (await harness.observe()).verdict.reason == "Passed"


async def test_a_serving_engine_keeps_its_verdict_while_it_cannot_be_measured_again(harness: GateHarness) -> None:
    await harness.observe()
    harness.engine.traits.foreign_tokens = 500
    harness.configure(decode={"prompt": "another"}, golden={"prompt": "6 x 7?", "expect": "[4]2"}, retrySeconds=3600)
    state = await harness.observe()
    assert (state.verdict.reason, state.attempts) == ("Passed", 2)

    streams = harness.engine.count("stream")
    await harness.observe()
    assert harness.engine.count("stream") == streams, "the pause holds for it too"

    harness.engine.traits.foreign_tokens = 0
    harness.engine.traits.acceptance = 0.0
    harness.configure(retrySeconds=0)
    assert (await harness.observe()).verdict.reason == "DraftDead", "the new measurement counts once there is one"


async def test_answers_are_not_judged_by_another_questions_expectation(harness: GateHarness) -> None:
    await harness.observe()
    harness.engine.traits.foreign_tokens = 500
    harness.engine.traits.answers = ["Paris"]
    harness.configure(golden={"prompt": "France?", "expect": "Paris"})
    assert (await harness.observe()).verdict.reason == "Passed", "42 was right for what was asked then"


@pytest.mark.parametrize(
    "change",
    [{"model": "renamed"}, {"speculation": {"expected": True, "tokens": 2}}],
    ids=["another served name", "speculation switched on"],
)
async def test_a_change_that_needs_a_new_process_does_not_fail_the_old_one(
    harness: GateHarness, change: dict[str, object]
) -> None:
    """The ConfigMap changes for all pods at once, but pods are replaced one by one."""
    harness.engine.traits.speculation = False
    harness.configure(speculation={"expected": False})
    await harness.observe()

    harness.configure(**change)

    state = await harness.observe()
    assert (state.verdict.reason, state.attempts) == ("Passed", 1)


async def test_a_new_process_is_held_to_the_change(harness: GateHarness) -> None:
    harness.engine.traits.speculation = False
    harness.configure(speculation={"expected": False})
    await harness.observe()
    harness.configure(speculation={"expected": True})
    harness.record(pid=8, started_at="2026-11-24T13:00:00.000Z")
    assert (await harness.observe()).verdict.reason == "SpeculationAbsent"


def test_a_configuration_of_a_former_operator_asks_nothing_new() -> None:
    """Gates are newer than the operator while it is upgraded, and its floors keep their meaning."""
    former = {"model": "m", "golden": {"prompt": "p"}, "decode": {"minTokensPerSecond": 60, "prompt": "p"}}
    config = GateConfig.model_validate({**former, "minAcceptancePercent": 40})
    assert (config.long_answer, config.long_prompt, config.features, config.deterministic) == (None, None, None, False)
    assert (config.min_acceptance_percent, config.min_first_draft_percent) == (40, None)


def test_keys_of_a_newer_operator_are_ignored_at_every_depth() -> None:
    newer = {"model": "m", "golden": {"prompt": "p", "tone": 1}, "decode": {"minTokensPerSecond": 60, "prompt": "p"}}
    long_prompt = {"tokens": 300, "language": "Latin"}
    config = GateConfig.model_validate({**newer, "longPrompt": long_prompt, "features": {"vision": True}, "moon": {}})
    assert config.long_prompt is not None
    assert config.long_prompt.tokens == 300


BAD = {
    "an expression that is none": ('"expect": "("', "golden.expect: Value error, '(' is not a regular expression"),
    "a kind of question that there is not": ('"kind": "poem"', "golden.kind"),
    "no room for an answer": ('"maxTokens": 0', "golden.maxTokens"),
}


@pytest.mark.parametrize(("field", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_field_is_named(tmp_path: Path, field: str, message: str) -> None:
    path = tmp_path / "gate.json"
    path.write_text(
        f'{{"model": "m", "golden": {{"prompt": "p", {field}}}, "decode": {{"minTokensPerSecond": 1, "prompt": "p"}}}}'
    )
    with pytest.raises(BadConfigError) as caught:
        GateConfig.read(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("decode", ['"samples": 0', '"tokens": 1', '"minTokensPerSecond": -1'])
def test_an_impossible_measurement_is_rejected(tmp_path: Path, decode: str) -> None:
    path = tmp_path / "gate.json"
    path.write_text(
        f'{{"model": "m", "golden": {{"prompt": "p"}}, "decode": {{"minTokensPerSecond": 1, "prompt": "p", {decode}}}}}'
    )
    with pytest.raises(BadConfigError, match="decode"):
        GateConfig.read(path)


def test_a_binary_file_is_rejected_without_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "gate.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadConfigError):
        GateConfig.read(path)
