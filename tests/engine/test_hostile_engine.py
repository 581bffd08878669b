"""Any answer of an engine, or of another server in its place, gives a verdict, and the gate keeps running."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_config import GateConfig
from flash_engine.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.gate.decode_speed import DecodeSpeed, decode_speed
from flash_engine.gate.engine_errors import EngineRequestError
from flash_engine.gate.evidence import Evidence
from flash_engine.gate.judge import judge
from flash_engine.gate.measurement import Stream
from flash_engine.gate.stream_reader import StreamReader
from flash_engine.gate.trial_store import StoredTrial, TrialStore

FEW = settings(max_examples=25, deadline=None)
MANY = settings(max_examples=10_000, deadline=None)
MANY_SECONDS = pytest.mark.timeout(900)
"""Ten thousand examples take minutes where cores are shared."""

CONFIG = GateConfig.model_validate(
    {"model": "m", "golden": {"prompt": "p"}, "decode": {"minTokensPerSecond": 60, "prompt": "p"}}
)
RUN = EngineRecord("Starting", 7, "2026-11-24T12:00:00.000Z")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TEXT = st.fixed_dictionaries({}, optional={"text": JSON, "index": JSON})
EVENT = st.fixed_dictionaries(
    {},
    optional={
        "choices": JSON | st.lists(TEXT | JSON, max_size=3),
        "usage": JSON | st.fixed_dictionaries({"completion_tokens": JSON | st.integers(0, 300)}),
        "error": JSON,
    },
)
LINES = st.lists(st.binary(max_size=20) | EVENT.map(lambda event: f"data: {json.dumps(event)}".encode()), max_size=8)

NAMES = st.sampled_from(
    ["vllm:generation_tokens_total", "vllm:num_requests_running", "vllm:inter_token_latency_seconds_bucket",
     "vllm:spec_decode_num_draft_tokens_total", "vllm:kv_cache_usage_perc", "vllm:request_success_total"]
)  # fmt: skip
LABELS = st.sampled_from(
    ["", "{}", '{le="0.1"}', '{le="+Inf"}', '{le="x"}', '{le="NaN"}', '{engine="0"', '{a="b\\"}', "{"]
)
VALUES = st.sampled_from(["5", "-1", "NaN", "+Inf", "1e400", "", "x", "5 17 9", "0x1"]) | st.text(max_size=4)
PAGE = st.lists(st.tuples(NAMES, LABELS, VALUES).map(lambda line: f"{line[0]}{line[1]} {line[2]}"), max_size=8).map(
    "\n".join
) | st.text(max_size=60)


class _Answer:
    """The part of aiohttp's answer that the reader uses."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    @property
    def content(self) -> AsyncIterator[bytes]:
        return self._sent()

    async def _sent(self) -> AsyncIterator[bytes]:
        for line in self._lines:
            yield line


async def outcome_of(lines: list[bytes]) -> Stream | EngineRequestError:
    reader = StreamReader(asked=0.0)
    try:
        return await reader.read(cast("aiohttp.ClientResponse", _Answer([*lines, b"data: [DONE]"])))
    except EngineRequestError as error:
        return error


def is_sound(outcome: Stream | EngineRequestError) -> bool:
    """A stream has tokens and speeds; an error says which request failed."""
    if isinstance(outcome, EngineRequestError):
        return "/v1/completions" in str(outcome)
    rates = (outcome.decode_tokens_per_second, *outcome.block_rates)
    return outcome.tokens > 0 and all(rate >= 0 for rate in rates)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all examples, whose clock the reader uses."""
    with asyncio.Runner() as one:
        yield one


def speed_by(pages: tuple[str, str]) -> DecodeSpeed | MissingMetricsError | None:
    try:
        before, after = (EngineCounters.parse(page) for page in pages)
    except MissingMetricsError as error:
        return error
    return decode_speed(before, after, streams=1.0, config=CONFIG)


def is_known(speed: DecodeSpeed | MissingMetricsError | None) -> bool:
    """Nothing, what is missing, or a speed with bounds in their order."""
    if isinstance(speed, DecodeSpeed):
        return speed.least <= speed.most
    return speed is None or "metrics" in str(speed) or "vllm:" in str(speed)


def restored(folder: Path, document: dict[str, Any]) -> StoredTrial | None:
    file = folder / "trial.json"
    asked = json.dumps(CONFIG.asked)
    file.write_text(json.dumps({"version": 1, "pid": 7, "startedAt": RUN.started_at, "asked": asked, **document}))
    return TrialStore(file).restore(RUN, CONFIG)


def can_be_judged(stored: StoredTrial | None) -> bool:
    """No trial, or one that gives a verdict."""
    evidence = Evidence(RUN, healthy=True, was_healthy=True, trial=stored.trial if stored else None)
    return bool(judge(evidence, CONFIG).message)


@FEW
@given(lines=LINES)
def test_no_stream_ends_the_gate(runner: asyncio.Runner, lines: list[bytes]) -> None:
    assert is_sound(runner.run(outcome_of(lines)))


@FEW
@given(st.tuples(PAGE, PAGE))
def test_no_page_of_metrics_ends_the_gate(pages: tuple[str, str]) -> None:
    assert is_known(speed_by(pages))


FIGURES = {
    "decodeTokensPerSecond": 85.0, "firstTokenMillis": 120.0, "tokens": 128, "drafted": 60, "accepted": 50,
    "durationMillis": 1500.0, "countedTokens": 128, "foreignTokens": 0, "foreignRequests": 0,
}  # fmt: skip
TRIAL = st.fixed_dictionaries(
    {},
    optional={
        "goldenAnswers": JSON | st.just(["42", "42"]),
        "figures": JSON | st.fixed_dictionaries({name: JSON | st.just(value) for name, value in FIGURES.items()}),
        "degraded": JSON,
        "stall": JSON | st.fixed_dictionaries({"seconds": JSON, "generated": JSON, "unfinished": JSON}),
        "concurrentRound": JSON,
        "expect": JSON,
        "right": JSON,
        "longPrompts": JSON,
        "brokenFeatures": JSON,
    },
)


@FEW
@given(document=TRIAL)
def test_no_stored_trial_ends_the_gate(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> None:
    assert can_be_judged(restored(tmp_path_factory.getbasetemp(), document))


@pytest.mark.long
@MANY_SECONDS
@MANY
@given(lines=LINES)
def test_no_stream_of_many_ends_the_gate(runner: asyncio.Runner, lines: list[bytes]) -> None:
    assert is_sound(runner.run(outcome_of(lines)))


@pytest.mark.long
@MANY_SECONDS
@MANY
@given(st.tuples(PAGE, PAGE))
def test_no_page_of_many_ends_the_gate(pages: tuple[str, str]) -> None:
    assert is_known(speed_by(pages))


@pytest.mark.long
@MANY_SECONDS
@MANY
@given(document=TRIAL)
def test_no_stored_trial_of_many_ends_the_gate(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    assert can_be_judged(restored(tmp_path_factory.getbasetemp(), document))
