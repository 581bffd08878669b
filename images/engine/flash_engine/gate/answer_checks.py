"""Finds wrong texts in a trial: golden and long answers, timed streams, and concurrent requests. Pure.

Every text that the gate receives is checked, because wrong answers are worse than slow ones. Answers to questions must
be right; any other text must not be nonsense or contain a special token.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

from flash_contracts.gate_config import GateConfig
from flash_engine.gate.evidence import GoldenAnswers, Trial

DEGENERATE_RUN = 8
"""An answer that repeats one piece this often is degenerate: corrupt data over a link produces such answers."""

RUN_OF_A_PIECE = re.compile(rf"(.{{1,8}}?)\1{{{DEGENERATE_RUN - 1},}}")
"""A piece of at most eight characters, repeated without a gap."""

SPECIAL_TOKEN = re.compile(r"<[|\uff5c][^<>|\uff5c]{1,40}[|\uff5c]>")
"""Special tokens as DeepSeek and others spell them. The engine strips them from its answers, so one that appears there
has leaked. Seen with two drafts per step: the beginning-of-sentence token came back as text."""

BEGINNING_TOKEN = re.compile(
    r"<[|\uff5c](?=[^<>|\uff5c]*(?:begin|start|bos|pad))[^<>|\uff5c]{1,40}[|\uff5c]>|<(?:bos|pad)>", re.IGNORECASE
)
"""Special tokens that no text may contain, not even a timed one, which runs past its end into a user's next turn."""

SPECIAL_TOKENS = re.compile(rf"(?:{SPECIAL_TOKEN.pattern}|<(?:bos|pad)>)", re.IGNORECASE)

RUN_OF_SPECIAL_TOKENS = re.compile(rf"(?:{SPECIAL_TOKENS.pattern}\s*){{{DEGENERATE_RUN},}}", re.IGNORECASE)
"""Nothing but special tokens: wrong data decode to the first token of the vocabulary."""


class TextKind(StrEnum):
    """The kinds of text in a trial, by the request."""

    GOLDEN = "golden"
    LONG_ANSWER = "longAnswer"
    TIMED = "timed"
    DEPTH = "depth"
    """After a long prompt."""
    CONCURRENT = "concurrent"
    """From several requests at once."""


class Flaw(Enum):
    """What a wrong text is evidence of."""

    WRONG = "wrong data or wrong weights: it is empty, nonsense, or not the answer"
    LEAK = "no wrong data: the text is right except for a leaked special token"
    DIFFERENCE = "nothing by itself: each text is right, but they differ"


@dataclass(frozen=True)
class TextFault:
    """What is wrong with a text."""

    detail: str
    flaw: Flaw = Flaw.WRONG


@dataclass(frozen=True)
class WrongText:
    """The wrong text of a trial."""

    kind: TextKind
    fault: TextFault


def wrong_text(trial: Trial, config: GateConfig) -> WrongText | None:
    """The first text that wrong data may have caused, or else the first wrong one."""
    found = [WrongText(kind, fault) for kind in TextKind if (fault := fault_of(kind, trial, config))]
    return min(found, key=lambda one: one.fault.flaw is not Flaw.WRONG, default=None)


def right_texts(trial: Trial, config: GateConfig) -> dict[TextKind, str]:
    """Each kind whose texts are all right, with the `identity` of what was asked."""
    asked = {kind: identity(kind, config) for kind in TextKind if any(_texts(kind, trial))}
    return {kind: name for kind, name in asked.items() if name and fault_of(kind, trial, config) is None}


def identity(kind: TextKind, config: GateConfig) -> str | None:
    """Identifies the requests of a kind and their expected answers; None if the gate makes no such request."""
    golden, long_answer, decode = config.golden, config.long_answer, config.decode
    match kind:
        case TextKind.GOLDEN:
            return golden.identity
        case TextKind.LONG_ANSWER:
            return long_answer.identity if long_answer else None
        case TextKind.TIMED:
            return _hashed(kind, decode.prompt)
        case TextKind.DEPTH:
            return _hashed(kind, decode.prompt, config.long_prompt.tokens) if config.long_prompt else None
        case TextKind.CONCURRENT:
            answers = golden.identity, long_answer.identity if long_answer else None
            return _hashed(kind, decode.prompt, decode.streams, *answers)


def kind_of(asked: str, config: GateConfig) -> TextKind | None:
    """The kind that has this `identity`; None if the gate no longer asks for it."""
    return next((kind for kind in TextKind if identity(kind, config) == asked), None)


def _hashed(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode(errors="surrogatepass")).hexdigest()[:16]


def _texts(kind: TextKind, trial: Trial) -> Sequence[str]:
    concurrent = trial.concurrent_round
    match kind:
        case TextKind.GOLDEN:
            return trial.golden.texts if trial.golden else ()
        case TextKind.LONG_ANSWER:
            return trial.long_answers
        case TextKind.TIMED:
            return [sample.stream.text for sample in trial.measurement.samples] if trial.measurement else ()
        case TextKind.DEPTH:
            return [prompt.text for prompt in trial.long_prompts]
        case TextKind.CONCURRENT:
            return (*concurrent.texts, *concurrent.long_answers, *concurrent.stream_texts) if concurrent else ()


def fault_of(kind: TextKind, trial: Trial, config: GateConfig) -> TextFault | None:
    """What is wrong with the texts of a kind; None if they are right, or there are none."""
    match kind:
        case TextKind.GOLDEN:
            return golden_fault(trial.golden, config) if trial.golden else None
        case TextKind.LONG_ANSWER:
            return long_answer_fault(trial.long_answers, config)
        case TextKind.TIMED:
            return _timed_fault(_texts(kind, trial), config)
        case TextKind.DEPTH:
            return _depth_fault(trial, config)
        case TextKind.CONCURRENT:
            return concurrent_round_fault(trial, config)


def golden_fault(golden: GoldenAnswers, config: GateConfig) -> TextFault | None:
    """What is wrong with the answers; None if they are right.

    Two greedy answers may differ: a cached prefix is computed in another order, which can flip a near-tie. If the
    expected answer is known, it is enough that both are right. Otherwise only their equality can be checked.
    """
    wrong = _worst(_faults("the golden answer {}", golden.texts, config.golden.expect))
    must_be_equal = config.golden.expect is None or config.deterministic
    return wrong or (_difference(golden.texts) if must_be_equal else None)


def long_answer_fault(texts: Sequence[str], config: GateConfig) -> TextFault | None:
    """What is wrong with the long answers; None if they are right, or were not asked for."""
    asked = config.long_answer
    wrong = _worst(_faults("the long answer {}", texts, asked.expect)) if asked else None
    return wrong or (_difference(texts) if config.deterministic else None)


def _difference(texts: Sequence[str]) -> TextFault | None:
    if len(set(texts)) <= 1:
        return None
    answers = " and ".join(_quoted(text) for text in texts)
    return TextFault(f"the same greedy question got different answers, {answers}", Flaw.DIFFERENCE)


def _timed_fault(texts: Sequence[str], config: GateConfig) -> TextFault | None:
    """What is wrong with a timed answer. It is long enough to show faults of decoding that a golden answer cannot."""
    wrong = _worst(_nonsense("a timed answer, {},", texts))
    if wrong or not config.deterministic or not texts:
        return wrong
    # A stream whose speed is clear is cut, so they have different lengths.
    shortest = min(map(len, texts))
    return _difference([text[:shortest] for text in texts])


def _depth_fault(trial: Trial, config: GateConfig) -> TextFault | None:
    """What is wrong with the text after a long prompt: attention over a long context has kernels of its own."""
    prompts = trial.long_prompts if config.long_prompt and config.long_prompt.text_is_judged else ()
    return _worst(
        fault
        for prompt in prompts
        for fault in _nonsense(f"the text after a prompt of {prompt.tokens} tokens, {{}},", [prompt.text])
    )


def concurrent_round_fault(trial: Trial, config: GateConfig) -> TextFault | None:
    """What is wrong with the texts of a concurrent round. They may differ: each batch size rounds differently."""
    concurrent, asked, streams = trial.concurrent_round, config.long_answer, config.decode.streams
    if concurrent is None:
        return None
    where = f"among {streams} concurrent requests"
    faults = [
        *_faults(f"the golden answer {{}} {where}", concurrent.texts, config.golden.expect),
        *(_faults(f"the long answer {{}} {where}", concurrent.long_answers, asked.expect) if asked else ()),
        *_nonsense(f"one of {streams} concurrent answers, {{}},", concurrent.stream_texts),
    ]
    return _worst(faults)


def _worst(faults: Iterable[TextFault]) -> TextFault | None:
    """The first one that may come from wrong data, or else the first."""
    return min(faults, key=lambda fault: fault.flaw is not Flaw.WRONG, default=None)


def _faults(what: str, texts: Iterable[str], expect: str | None) -> Iterator[TextFault]:
    """Faults of answers. `what` has a placeholder for the quoted text."""
    for text in texts:
        detail = _flaw_of_answer(text, expect)
        if detail:
            flaw = Flaw.LEAK if _only_leaks(text, expect) else Flaw.WRONG
            yield TextFault(f"{what.replace('{}', _quoted(text))} {detail}", flaw)


def _nonsense(what: str, texts: Iterable[str]) -> Iterator[TextFault]:
    """Faults of texts that answer no question."""
    for text in texts:
        detail = text_fault(text)
        if detail:
            flaw = Flaw.LEAK if _only_leaks(text, None) else Flaw.WRONG
            yield TextFault(f"{what.replace('{}', _quoted(text))} {detail}", flaw)


def text_fault(text: str) -> str | None:
    """What is wrong with a text, whatever was asked. One that runs past its end may contain a user's turn."""
    begun = BEGINNING_TOKEN.search(text)
    if begun:
        return f"contains the special token {begun[0]}"
    return "repeats itself" if is_degenerate(text) else None


def _flaw_of_answer(text: str, expect: str | None) -> str | None:
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


def _only_leaks(text: str, expect: str | None) -> bool:
    """Whether the text is right without its special tokens. With two drafts, vLLM leaks them on sound data too."""
    rest = SPECIAL_TOKENS.sub("", text)
    return rest != text and not RUN_OF_SPECIAL_TOKENS.search(text) and _flaw_of_answer(rest, expect) is None


def is_degenerate(text: str) -> bool:
    """Whether a text is like "!!!!" or one word repeated, as reported for all-reduce over broken peer-to-peer.

    Either the whole text repeats one piece, or half of it is a run of one short piece.
    """
    words = " ".join(text.split())
    longest = (len(words) + 1) // DEGENERATE_RUN
    whole = any(_repeats(f"{words} ", length) or _repeats(words, length) for length in range(1, longest + 1))
    return whole or any(2 * len(run[0]) >= len(words) for run in RUN_OF_A_PIECE.finditer(words))


def _repeats(text: str, length: int) -> bool:
    """Whether the text repeats its first `length` characters often enough to be degenerate."""
    times = len(text) // length
    return times >= DEGENERATE_RUN and text == (text[:length] * (times + 1))[: len(text)]


def _quoted(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else f"{text[:limit]}…")
