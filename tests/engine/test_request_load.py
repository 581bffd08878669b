"""How many requests are on the engine, as `/result` tells the operator: unknown is never 0."""

import asyncio
from dataclasses import replace

import pytest

from flash_contracts.gate_config import GateConfig
from flash_contracts.gate_result import GateResult, RequestLoad
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.serving_monitor import CountersObserved, ServingMonitor, observe_counters

CONFIG = GateConfig.model_validate(
    {"model": "m", "golden": {"prompt": "p"}, "decode": {"minTokensPerSecond": 60, "prompt": "p"}}
)
PAGE = "vllm:generation_tokens_total 10\nvllm:num_requests_running 3\n"
BUSY = EngineCounters(generated=10, running=3, drafted=None, accepted=None, waiting=2)


def monitor_after(counters: EngineCounters, *, own: int = 0) -> ServingMonitor:
    return ServingMonitor().after(CountersObserved(100.0, counters, own_requests=own), CONFIG)


def test_users_requests_are_those_that_are_not_the_gates() -> None:
    load = monitor_after(BUSY, own=1).load(103.0)
    assert load is not None
    assert load == RequestLoad(running=3, waiting=2, own=1, age_seconds=3.0)
    assert load.of_users == 4


def test_requests_that_only_the_gauges_show_are_left_out() -> None:
    load = replace(monitor_after(BUSY), _abandoned=2.0).load(100.0)
    assert load is not None
    assert (load.abandoned, load.of_users) == (2, 3)


@pytest.mark.parametrize(
    "monitor",
    [
        pytest.param(ServingMonitor(), id="no reading yet"),
        pytest.param(
            monitor_after(BUSY).after(CountersObserved(105.0, missing="vllm:num_requests_running"), CONFIG),
            id="the gauges are gone",
        ),
        pytest.param(monitor_after(EngineCounters.parse(PAGE)), id="an engine that does not tell how many wait"),
    ],
)
def test_what_nothing_tells_is_unknown(monitor: ServingMonitor) -> None:
    assert monitor.load(110.0) is None


def test_a_silent_engine_leaves_the_last_reading_which_gets_older() -> None:
    load = monitor_after(BUSY).after(CountersObserved(130.0), CONFIG).load(160.0)
    assert load is not None
    assert (load.of_users, load.age_seconds) == (5, 60.0)


def test_gauges_that_cannot_be_do_not_break_the_document() -> None:
    load = monitor_after(replace(BUSY, running=1e300, waiting=-4)).load(100.0)
    assert load is not None
    assert RequestLoad.parse(load.to_json()) == load


@pytest.mark.parametrize(
    "load",
    [{"running": -1, "waiting": 0}, {"running": 10**9, "waiting": 0}, {"running": True, "waiting": 0}, {}, 3, None],
)
def test_a_load_that_cannot_be_is_unknown_and_the_verdict_stays(load: object) -> None:
    result = GateResult.of({"version": 1, "reason": "Passed", "passed": True, "load": load})
    assert (result.passed, result.load) == (True, None)


def test_a_gate_of_before_does_not_tell() -> None:
    former = GateResult.of({"version": 1, "reason": "Passed", "passed": True})
    assert former.load is None
    assert "load" not in former.to_json()


class CountingClient:
    """An engine client with so many requests under way before and after the counters are read."""

    def __init__(self, before: int, after: int) -> None:
        self.own_requests = before
        self._after = after

    async def counters(self) -> EngineCounters:
        self.own_requests = self._after
        return BUSY


@pytest.mark.parametrize(("before", "after", "own"), [(1, 1, 1), (0, 1, 0), (1, 0, 0), (3, 2, 2)])
def test_only_requests_that_were_under_way_all_the_time_are_the_gates(before: int, after: int, own: int) -> None:
    observed = asyncio.run(observe_counters(CountingClient(before, after)))  # type: ignore[arg-type]
    assert observed.own_requests == own
