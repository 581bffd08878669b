"""What an engine stub answers in a chat: the message, and how many tokens it took. Pure."""

import json
from dataclasses import dataclass
from typing import Any

from engine_stub.traits import Traits

ANSWER_TOKENS = 4
THOUGHT = "The user asks for something simple, so let me go through it step by step before I answer."


@dataclass(frozen=True)
class Reply:
    """A choice of a chat completion."""

    message: dict[str, Any]
    tokens: int
    finish_reason: str = "stop"

    def to_json(self) -> dict[str, Any]:
        return {"choices": [{"message": self.message, "finish_reason": self.finish_reason}]}


def reply_to(body: dict[str, Any], traits: Traits, *, is_concurrent: bool) -> Reply:
    """Thinks first, if the template demands it or the model always does, and then answers."""
    if "tools" in body:
        return _tool_call(traits)
    if "response_format" in body:
        return _json(traits)
    asked = (body.get("chat_template_kwargs") or {}).get("thinking")
    thinks = traits.thinks_anyway or (traits.reasons if asked else asked is None and traits.thinks)
    thought = traits.thought_tokens if thinks else 0
    wanted = int(body.get("max_tokens", 1 << 20))
    answer = _answer(str(body["messages"][-1]["content"]), traits, is_concurrent=is_concurrent)
    if thought >= wanted:
        return Reply({"reasoning": THOUGHT, "content": None}, wanted, "length")
    message: dict[str, Any] = {"content": answer}
    if thinks and "reasoning" in traits.broken_features:
        message["content"] = f"<think>{THOUGHT}</think>{answer}"
    elif thinks:
        message["reasoning"] = THOUGHT
    return Reply(message, min(wanted, thought + _tokens(answer)))


def _answer(question: str, traits: Traits, *, is_concurrent: bool) -> str:
    if question.startswith("Count from 1"):
        return (
            traits.count_when_concurrent if is_concurrent and traits.count_when_concurrent is not None else traits.count
        )
    if is_concurrent and traits.answer_when_concurrent is not None:
        return traits.answer_when_concurrent
    return traits.answers.pop(0) if len(traits.answers) > 1 else traits.answers[0]


def _tool_call(traits: Traits) -> Reply:
    arguments = json.dumps({"city": "Paris"})
    if "tools" in traits.broken_features:
        return Reply({"content": f'<tool_call>{{"name": "get_weather", "arguments": {arguments}}}</tool_call>'}, 30)
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return Reply({"content": None, "tool_calls": [call]}, 30, "tool_calls")


def _json(traits: Traits) -> Reply:
    if "schema" in traits.broken_features:
        return Reply({"content": "Her name is Ada, and she is 36 years old."}, 12)
    return Reply({"content": json.dumps({"name": "Ada", "age": 36})}, 12)


def _tokens(answer: str) -> int:
    return max(ANSWER_TOKENS, 2 * len(answer.split()))
