"""What is switched on is tried: which answers show a broken parser, and which show nothing."""

import json
from typing import Any

import pytest

from flash_contracts.gate_config import FeatureTests
from flash_contracts.gate_result import GateResult, GateWarning
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.features import Feature, features_of
from flash_engine.gate.result import result_of
from gate_harness import GateHarness

ALL = {"toolCalls": True, "reasoning": True, "jsonSchema": True}
FEATURES = {
    feature.reason: feature for feature in features_of(FeatureTests(tool_calls=True, reasoning=True, json_schema=True))
}


def called(arguments: object = '{"city": "Paris"}', name: str = "get_weather", content: str | None = None) -> object:
    return {
        "content": content,
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


TOOLS: dict[str, tuple[object, str | None]] = {
    "a call": (called(), None),
    "a call with a word before it": (called(content="Let me look."), None),
    "a country as well": (called('{"city": "Paris, France"}'), None),
    "no call": ({"content": "It is sunny in Paris.", "tool_calls": []}, "calls no tool: 'It is sunny"),
    "nothing at all": ({"content": None}, "calls no tool: ''"),
    "a call in the text": ({"content": '<tool_call>{"name": "get_weather"}'}, "the call is in the text"),
    "DeepSeek's own form in the text": (
        {"content": "<\uff5cDSML\uff5cfunction_calls><\uff5cDSML\uff5cinvoke name="}, "the call is in the text"),
    "a call and what is left of it": (called(content="</tool_call>"), "the call is in the text"),
    "another tool": (called(name="get_time"), "calls 'get_time' instead of get_weather"),
    "arguments that are cut": (called('{"city": "Par'), "not a JSON object: '{\"city\": \"Par'"),
    "arguments that are no object": (called('["Paris"]'), "not a JSON object"),
    "arguments that are parsed already": (called({"city": "Paris"}), "not a JSON object"),
    "arguments without the city": (called('{"town": 1}'), "lack the city"),
    "calls that are none": ({"tool_calls": ["get_weather"]}, "calls 'None'"),
    "calls that are no list": ({"tool_calls": {"name": "get_weather"}}, "calls no tool"),
    "no message": (None, "has no message"),
}  # fmt: skip
REASONED: dict[str, tuple[object, str | None]] = {
    "thoughts and an answer": ({"reasoning": "17 and 25 are 42.", "content": "42"}, None),
    "thoughts under their former name": ({"reasoning_content": "Let me see.", "content": "42"}, None),
    "a small sum without a thought": ({"content": "42"}, None),
    "thoughts in the answer, with their marks": ({"content": "<think>17 and 25</think>42"}, "<think> is in the answer"),
    "an end of thoughts alone": ({"content": "17 and 25 are 42.</think>42"}, "</think> is in the answer"),
    "a mark within the thoughts": ({"reasoning": "<think>17", "content": "42"}, "<think> is in the answer"),
    "thoughts in the answer, without marks": (
        {"content": "The user asks for 17 + 25. " * 4 + "42"}, "the reasoning is in the content"),
    "an answer within the thoughts": ({"reasoning": "17 and 25 are 42. 42", "content": ""}, "the whole answer is in"),
    "nothing at all": ({"content": None}, "the whole answer is in its reasoning"),
}  # fmt: skip
SCHEMA: dict[str, tuple[object, str | None]] = {
    "an object of the schema": ({"content": '{"name": "Ada", "age": 36}'}, None),
    "one with spaces": ({"content": ' {\n "age": 36,\n "name": "Ada"\n}\n'}, None),
    "prose": ({"content": "Ada is 36."}, "not a JSON object: 'Ada is 36.'"),
    "JSON in a fence": ({"content": '```json\n{"name": "Ada", "age": 36}\n```'}, "not a JSON object"),
    "a list": ({"content": "[1]"}, "not a JSON object"),
    "another key": ({"content": '{"name": "Ada", "age": 36, "city": "Paris"}'}, "does not follow the schema"),
    "a number as text": ({"content": '{"name": "Ada", "age": "36"}'}, "does not follow the schema"),
    "a truth for a number": ({"content": '{"name": "Ada", "age": true}'}, "does not follow the schema"),
    "nesting without an end": ({"content": "[" * 100_000}, "not a JSON object"),
    "nothing": ({"content": None}, "not a JSON object: ''"),
}
CASES = [
    pytest.param(FEATURES[reason], message, fault, id=f"{reason}, {name}")
    for reason, table in (
        (Reason.TOOL_CALLS_BROKEN, TOOLS),
        (Reason.REASONING_BROKEN, REASONED),
        (Reason.JSON_SCHEMA_BROKEN, SCHEMA),
    )
    for name, (message, fault) in table.items()
]


@pytest.mark.parametrize(("feature", "message", "fault"), CASES)
def test_an_answer_shows(feature: Feature, message: object, fault: str | None) -> None:
    found = feature.fault({"message": message, "finish_reason": "stop"})
    assert (found is None) == (fault is None), found
    if found and fault:
        assert found.reason == feature.reason
        assert fault in found.detail


def test_thoughts_whose_tokens_ended_show_nothing() -> None:
    choice = {"message": {"reasoning": "17 and 25", "content": None}, "finish_reason": "length"}
    assert FEATURES[Reason.REASONING_BROKEN].fault(choice) is None


def test_a_feature_that_is_off_is_not_tried() -> None:
    assert list(features_of(FeatureTests())) == []
    assert [f.reason for f in features_of(FeatureTests(json_schema=True))] == [Reason.JSON_SCHEMA_BROKEN]


def warned(result: GateResult) -> tuple[GateWarning, ...]:
    assert result.trial is not None
    return result.trial.warnings


async def test_a_broken_feature_is_a_warning_in_verdict_and_result(harness: GateHarness) -> None:
    harness.engine.traits.broken_features = frozenset({"tools", "schema"})
    harness.configure(features=ALL)
    state = await harness.observe()
    assert state.verdict.passed
    assert "warning: ToolCallsBroken: tool calls: the call is in the text" in state.verdict.message
    written = json.loads(json.dumps(result_of(state, harness.gate.config, None).to_json()))
    assert [warning.reason for warning in warned(GateResult.of(written))] == ["ToolCallsBroken", "JsonSchemaBroken"]


async def test_requiring_a_feature_judges_the_trial_there_is(harness: GateHarness) -> None:
    harness.engine.traits.broken_features = frozenset({"reasoning"})
    harness.configure(features=ALL, retrySeconds=3600)
    assert (await harness.observe()).verdict.passed
    harness.configure(features={"required": True})
    state = await harness.observe()
    assert (state.verdict.reason, state.attempts) == ("ReasoningBroken", 1)
    assert "check --reasoning-parser" in state.verdict.message


async def test_features_that_work_give_no_warning(harness: GateHarness) -> None:
    harness.configure(features={**ALL, "required": True})
    state = await harness.observe()
    assert state.verdict.passed
    assert warned(result_of(state, harness.gate.config, None)) == ()


@pytest.mark.parametrize("traits", [{"refuses": "tools"}, {"refuses": "response_format"}], ids=str)
async def test_a_request_that_the_engine_refuses_is_a_broken_feature(
    harness: GateHarness, traits: dict[str, Any]
) -> None:
    for name, value in traits.items():
        setattr(harness.engine.traits, name, value)
    harness.configure(features=ALL)
    state = await harness.observe()
    assert state.verdict.passed
    (warning,) = warned(result_of(state, harness.gate.config, None))
    assert "HTTP 400" in warning.message


async def test_a_slow_engine_is_asked_for_no_features(harness: GateHarness) -> None:
    harness.configure(features=ALL, decode={"minTokensPerSecond": 1e12})
    assert (await harness.observe()).verdict.reason == "TooSlow"
    assert harness.engine.count("chat") == 2
