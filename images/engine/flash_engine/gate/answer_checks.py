"""What is wrong with the texts of a trial: golden and long answers, timed streams, and those of many requests. Pure.

A fast engine with wrong texts is the worst of all, so every text that the gate gets is looked at. Answers to questions
must be right; any other text must not be nonsense, and have no special token.
"""

import re
from collections.abc import Sequence

from flash_contracts.gate_config import GateConfig
from flash_engine.gate.evidence import GoldenAnswers, Trial

DEGENERATE_RUN = 8
"""An answer that repeats one piece this often is degenerate: corrupt data over a link produces such answers."""

RUN_OF_A_PIECE = re.compile(rf"(.{{1,8}}?)\1{{{DEGENERATE_RUN - 1},}}")
"""A piece of at most eight characters, repeated at once."""

SPECIAL_TOKEN = re.compile(r"<[|\uff5c][^<>|\uff5c]{1,40}[|\uff5c]>")
"""As DeepSeek and others spell them. The engine leaves them out of its answers, so one in an answer has leaked: seen
with two drafts a step, where the beginning-of-sentence token came back as text."""

BEGINNING_TOKEN = re.compile(
    r"<[|\uff5c](?=[^<>|\uff5c]*(?:begin|start|bos|pad))[^<>|\uff5c]{1,40}[|\uff5c]>|<(?:bos|pad)>", re.IGNORECASE
)
"""Special tokens that no text has, even one that goes on after its end: timed ones do, into a user's next turn."""


def golden_fault(golden: GoldenAnswers, config: GateConfig) -> str | None:
    """What is wrong with the answers; None if they are right.

    Two greedy answers may differ: a cached prefix is computed in another order, which can flip a near-tie. If the
    expected answer is known, it is enough that both are right. Otherwise only their equality can be checked.
    """
    for text in golden.texts:
        fault = _fault(text, config.golden.expect)
        if fault:
            return f"the golden answer {_quoted(text)} {fault}"
    return _difference(golden.texts) if config.golden.expect is None or config.deterministic else None


def long_answer_fault(texts: Sequence[str], config: GateConfig) -> str | None:
    """What is wrong with the long answers; None if they are right, or were not asked for."""
    for text in texts if config.long_answer else ():
        fault = _fault(text, config.long_answer.expect if config.long_answer else None)
        if fault:
            return f"the long answer {_quoted(text)} {fault}"
    return _difference(texts) if config.deterministic else None


def _difference(texts: Sequence[str]) -> str | None:
    if len(set(texts)) <= 1:
        return None
    return f"the same greedy question got different answers, {' and '.join(_quoted(text) for text in texts)}"


def timed_fault(trial: Trial, config: GateConfig) -> str | None:
    """What is wrong with a timed answer. It is long, so it shows what a short golden answer cannot: decoding itself."""
    texts = [sample.stream.text for sample in trial.measurement.samples] if trial.measurement else []
    for text in texts:
        fault = text_fault(text)
        if fault:
            return f"a timed answer, {_quoted(text)}, {fault}"
    if not config.deterministic or not texts:
        return None
    # A stream whose speed is clear is cut, so they have different lengths.
    shortest = min(map(len, texts))
    return _difference([text[:shortest] for text in texts])


def depth_fault(trial: Trial, config: GateConfig) -> str | None:
    """What is wrong with the text after a long prompt: attention over a long context has kernels of its own."""
    for prompt in trial.long_prompts if config.long_prompt and config.long_prompt.text_is_judged else ():
        fault = text_fault(prompt.text)
        if fault:
            return f"the text after a prompt of {prompt.tokens} tokens, {_quoted(prompt.text)}, {fault}"
    return None


def text_fault(text: str) -> str | None:
    """What is wrong with any text, whatever was asked. An answer that goes on after its end may have a user's turn."""
    begun = BEGINNING_TOKEN.search(text)
    if begun:
        return f"contains the special token {begun[0]}"
    return "repeats itself" if is_degenerate(text) else None


def concurrent_round_fault(trial: Trial, config: GateConfig) -> str | None:
    """Answers in a concurrent round may differ from each other: other batches round differently."""
    for text in trial.concurrent_round.texts if trial.concurrent_round else ():
        fault = _fault(text, config.golden.expect)
        if fault:
            return f"the golden answer {_quoted(text)} among {config.decode.streams} concurrent requests {fault}"
    for text in trial.concurrent_round.long_answers if trial.concurrent_round else ():
        fault = long_answer_fault([text], config)
        if fault:
            return f"{fault}, among {config.decode.streams} concurrent requests"
    for text in trial.concurrent_round.stream_texts if trial.concurrent_round else ():
        fault = text_fault(text)
        if fault:
            return f"one of {config.decode.streams} concurrent answers, {_quoted(text)}, {fault}"
    return None


def _fault(text: str, expect: str | None) -> str | None:
    if not text.strip():
        return "is empty"
    leaked = SPECIAL_TOKEN.search(text)
    if leaked:
        return f"contains the special token {leaked[0]}"
    if is_degenerate(text):
        return "repeats itself"
    if expect is not None and not re.search(expect, text):
        return f"does not contain {_quoted(expect)}"
    return None


def is_degenerate(text: str) -> bool:
    """Like "!!!!", or one word repeated, as reported for all-reduce over broken peer-to-peer.

    Either the whole text repeats one piece, or half of it is a run of one short piece, wherever that begins.
    """
    words = " ".join(text.split())
    longest = (len(words) + 1) // DEGENERATE_RUN
    whole = any(_repeats(f"{words} ", length) or _repeats(words, length) for length in range(1, longest + 1))
    return whole or any(2 * len(run[0]) >= len(words) for run in RUN_OF_A_PIECE.finditer(words))


def _repeats(text: str, length: int) -> bool:
    """The text repeats its first `length` characters often enough to be degenerate."""
    times = len(text) // length
    return times >= DEGENERATE_RUN and text == (text[:length] * (times + 1))[: len(text)]


def _quoted(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else f"{text[:limit]}…")
