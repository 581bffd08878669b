"""Tests the features that are switched on with one small request each: tool calls, reasoning and JSON schema. Pure.

Speed and golden answers do not show whether the parsers work. A parser that does not know the model's format leaves
tool calls and reasoning in the text, and every agent that uses the engine fails. A short answer without reasoning is
not a fault.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flash_contracts.gate_config import FeatureTests
from flash_contracts.trial_record import FeatureFault
from flash_contracts.verdict_reason import Reason

CITY = "Paris"
TOOL = "get_weather"
ANSWER_TOKENS = 512
"""One or two hundred are typical, even with reasoning about a small sum."""

SHORT_TEXT = 80
"""Characters of an answer that only states a number. A longer one contains reasoning."""

MARKS_OF_THOUGHT = ("<think>", "</think>")
MARKS_OF_CALLS = ("<tool_call", "</tool_call", "tool_calls_begin", "tool\u2581call", "DSML", "function_calls>")
"""How models write a call. A parser that knows the format removes it from the text."""


class BadChoiceError(ValueError):
    """The feature is broken. The message shows what the engine answered."""


@dataclass(frozen=True)
class Feature:
    """One request, and how its answer is judged."""

    reason: Reason
    body: dict[str, Any]
    thinking: bool
    check: Callable[[dict[str, Any]], None]
    """Takes the choice of the answer. Raises BadChoiceError."""

    def fault(self, choice: object) -> FeatureFault | None:
        """What is wrong with the answer; None if nothing is."""
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            return FeatureFault(self.reason, "the answer has no message")
        try:
            self.check(choice)
        except BadChoiceError as error:
            return FeatureFault(self.reason, str(error))
        return None


def features_of(tests: FeatureTests) -> Iterator[Feature]:
    """The features that are switched on."""
    if tests.tool_calls:
        yield Feature(Reason.TOOL_CALLS_BROKEN, TOOL_BODY, thinking=False, check=check_tool_call)
    if tests.reasoning:
        yield Feature(Reason.REASONING_BROKEN, REASONING_BODY, thinking=True, check=check_reasoning)
    if tests.json_schema:
        yield Feature(Reason.JSON_SCHEMA_BROKEN, JSON_BODY, thinking=False, check=check_json)


def _asking(question: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS,
    }


TOOL_BODY: dict[str, Any] = {
    **_asking(f"What is the weather in {CITY} at this moment? Call the tool to find out."),
    "tool_choice": "auto",
    "tools": [
        {
            "type": "function",
            "function": {
                "name": TOOL,
                "description": "The present weather in a city.",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "description": "Name of the city."}},
                    "required": ["city"],
                },
            },
        }
    ],
}

REASONING_BODY: dict[str, Any] = _asking("What is 17 + 25? Answer with the number only.")

JSON_BODY: dict[str, Any] = {
    **_asking("Ada is 36 years old. Give her name and her age as JSON."),
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "person",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                "required": ["name", "age"],
                "additionalProperties": False,
            },
        },
    },
}


def check_tool_call(choice: dict[str, Any]) -> None:
    """Requires one call of the tool, with arguments that a client can parse and no trace of it in the text."""
    message = choice["message"]
    text, calls = _text(message, "content"), message.get("tool_calls") or []
    for mark in MARKS_OF_CALLS:
        if mark in text:
            raise BadChoiceError(f"the call is in the text, {_quoted(text)}, instead of in tool_calls")
    if not isinstance(calls, list) or not calls:
        raise BadChoiceError(f"the answer calls no tool: {_quoted(text)}")
    function = calls[0].get("function") if isinstance(calls[0], dict) else None
    name, arguments = (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (None, None)
    if name != TOOL:
        raise BadChoiceError(f"the answer calls {_quoted(str(name))} instead of {TOOL}")
    if not isinstance(arguments, str) or not isinstance(_parsed(arguments), dict):
        raise BadChoiceError(f"the call's arguments are not a JSON object: {_quoted(str(arguments))}")
    if CITY.casefold() not in str(_parsed(arguments).get("city")).casefold():
        raise BadChoiceError(f"the call's arguments lack the city: {_quoted(arguments)}")


def check_reasoning(choice: dict[str, Any]) -> None:
    """Requires the reasoning to be in `reasoning` and the answer in `content`."""
    message = choice["message"]
    thought = _text(message, "reasoning") or _text(message, "reasoning_content")
    content = _text(message, "content")
    for mark in MARKS_OF_THOUGHT:
        if mark in content or mark in thought:
            raise BadChoiceError(f"{mark} is in the answer, {_quoted(content or thought)}")
    if choice.get("finish_reason") == "length":
        return
    if not content.strip():
        raise BadChoiceError(f"the whole answer is in its reasoning: {_quoted(thought)}")
    if not thought and len(content) > SHORT_TEXT:
        raise BadChoiceError(f"the reasoning is in the content: {_quoted(content)}")


def check_json(choice: dict[str, Any]) -> None:
    """Requires the content to be JSON that follows the schema, and nothing else."""
    text = _text(choice["message"], "content")
    person = _parsed(text)
    if not isinstance(person, dict):
        raise BadChoiceError(f"the content is not a JSON object: {_quoted(text)}")
    if set(person) != {"name", "age"} or not isinstance(person["name"], str) or type(person["age"]) is not int:
        raise BadChoiceError(f"the content does not follow the schema: {_quoted(text)}")


def _text(message: dict[str, Any], key: str) -> str:
    return str(message.get(key) or "")


def _parsed(text: str) -> Any:
    """None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _quoted(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else f"{text[:limit]}\u2026")
