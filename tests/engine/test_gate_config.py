"""gate.json changes while the pod runs: what is judged again, what is measured again, and what must not fail."""

from pathlib import Path

import pytest

from flash_contracts.gate_config import BadConfigError, GateConfig
from gate_harness import Bench


async def test_another_number_of_samples_is_not_measured_anew(bench: Bench) -> None:
    await bench.look()
    bench.configure(decode={"samples": 9})
    assert (await bench.look()).verdict.reason == "Passed"
    assert bench.gate.state.attempts == 1


async def test_another_expectation_judges_the_answers_there_are(bench: Bench) -> None:
    await bench.look()
    bench.configure(golden={"expect": "43"}, retrySeconds=3600)
    state = await bench.look()
    assert (state.verdict.reason, state.attempts) == ("WrongOutput", 1)


async def test_an_expectation_put_right_is_measured_at_once(bench: Bench) -> None:
    """Nothing was timed while the answer counted as wrong, so there is nothing to judge again."""
    bench.configure(golden={"expect": "43"}, retrySeconds=3600)
    assert (await bench.look()).verdict.reason == "WrongOutput"
    bench.configure(golden={"expect": "42"})
    assert (await bench.look()).verdict.reason == "Passed"


async def test_an_engine_that_serves_keeps_its_verdict_while_it_cannot_be_measured_anew(bench: Bench) -> None:
    await bench.look()
    bench.engine.traits.foreign_tokens = 500
    bench.configure(decode={"prompt": "another"}, golden={"prompt": "6 x 7?", "expect": "[4]2"}, retrySeconds=3600)
    state = await bench.look()
    assert (state.verdict.reason, state.attempts) == ("Passed", 2)

    streams = bench.engine.count("stream")
    await bench.look()
    assert bench.engine.count("stream") == streams, "the pause holds for it too"

    bench.engine.traits.foreign_tokens = 0
    bench.engine.traits.acceptance = 0.0
    bench.configure(retrySeconds=0)
    assert (await bench.look()).verdict.reason == "DraftDead", "the new measurement counts once there is one"


async def test_answers_are_not_judged_by_what_is_expected_of_another_question(bench: Bench) -> None:
    await bench.look()
    bench.engine.traits.foreign_tokens = 500
    bench.engine.traits.answers = ["Paris"]
    bench.configure(golden={"prompt": "France?", "expect": "Paris"})
    assert (await bench.look()).verdict.reason == "Passed", "42 was right for what was asked then"


@pytest.mark.parametrize(
    "change",
    [{"model": "renamed"}, {"speculation": {"expected": True, "tokens": 2}}],
    ids=["another served name", "speculation switched on"],
)
async def test_a_change_that_only_a_new_process_can_have_does_not_fail_the_old_one(
    bench: Bench, change: dict[str, object]
) -> None:
    """The ConfigMap changes under all pods at once, the pods roll one by one."""
    bench.engine.traits.speculation = False
    bench.configure(speculation={"expected": False})
    await bench.look()

    bench.configure(**change)

    state = await bench.look()
    assert (state.verdict.reason, state.attempts) == ("Passed", 1)


async def test_a_new_process_is_held_to_the_change(bench: Bench) -> None:
    bench.engine.traits.speculation = False
    bench.configure(speculation={"expected": False})
    await bench.look()
    bench.configure(speculation={"expected": True})
    bench.record(pid=8, started_at="2026-11-24T13:00:00.000Z")
    assert (await bench.look()).verdict.reason == "SpeculationAbsent"


BAD = {
    "an expression that is none": ('"expect": "("', "golden.expect: Value error, '(' is not a regular expression"),
    "a kind of question that there is not": ('"kind": "poem"', "golden.kind"),
    "no room for an answer": ('"maxTokens": 0', "golden.maxTokens"),
}


@pytest.mark.parametrize(("field", "told"), BAD.values(), ids=BAD.keys())
def test_a_bad_field_is_named(tmp_path: Path, field: str, told: str) -> None:
    path = tmp_path / "gate.json"
    path.write_text(
        f'{{"model": "m", "golden": {{"prompt": "p", {field}}}, "decode": {{"minTokensPerSecond": 1, "prompt": "p"}}}}'
    )
    with pytest.raises(BadConfigError) as caught:
        GateConfig.read(path)
    assert str(caught.value).startswith(f"{path}: {told}")


@pytest.mark.parametrize("decode", ['"samples": 0', '"tokens": 1', '"minTokensPerSecond": -1'])
def test_a_measurement_that_cannot_be_made_is_refused(tmp_path: Path, decode: str) -> None:
    path = tmp_path / "gate.json"
    path.write_text(
        f'{{"model": "m", "golden": {{"prompt": "p"}}, "decode": {{"minTokensPerSecond": 1, "prompt": "p", {decode}}}}}'
    )
    with pytest.raises(BadConfigError, match="decode"):
        GateConfig.read(path)


def test_bytes_that_are_no_text_are_refused_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "gate.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadConfigError):
        GateConfig.read(path)
