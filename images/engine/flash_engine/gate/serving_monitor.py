"""Monitors a serving engine by reading its Prometheus counters every few seconds. It sends no requests of its own.

Each reading costs the engine one page of metrics. `serving_health` interprets the readings.
"""

import asyncio
from dataclasses import dataclass, replace

from flash_contracts.gate_config import GateConfig
from flash_engine.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.gate.engine_client import EngineClient, EngineRequestError
from flash_engine.gate.serving_health import CounterReading, ServingHealth, Window


@dataclass(frozen=True)
class CountersObserved:
    """The outcome of one request for the engine's counters."""

    at: float
    """When it was sent (seconds on the event loop's clock)."""
    counters: EngineCounters | None = None
    """None if there was no answer, or if the metrics were incomplete."""
    missing: str | None = None
    """Which metrics the answer lacks."""


async def observe_counters(client: EngineClient) -> CountersObserved:
    """Read the counters. A failure is part of the observation, never an exception."""
    at = asyncio.get_running_loop().time()
    try:
        return CountersObserved(at, counters=await client.counters())
    except EngineRequestError:
        return CountersObserved(at)
    except MissingMetricsError as error:
        return CountersObserved(at, missing=str(error))


@dataclass(frozen=True)
class ServingMonitor:
    """What the readings of one run of the engine have shown so far. Pure: a new run starts with a new monitor."""

    health: ServingHealth = ServingHealth()  # noqa: RUF009 - frozen
    blind: str | None = None
    """Why the engine cannot be monitored: the metrics it lacks."""
    _last: CounterReading | None = None
    _asked_at: float | None = None
    _never_finished: float = 0.0
    """Requests that got a first token and were never counted as finished although they are gone: aborted ones."""

    def is_due(self, config: GateConfig, at: float) -> bool:
        """Whether the next reading is due."""
        return self._asked_at is None or at - self._asked_at >= config.serving.watch_seconds

    def after(self, observed: CountersObserved, config: GateConfig) -> "ServingMonitor":
        """The monitor with one more reading."""
        if observed.counters is not None:
            return self._after_reading(CounterReading(observed.at, observed.counters), config)
        if observed.missing is not None:
            return replace(self, _asked_at=observed.at, blind=observed.missing)
        waited = observed.at - self._asked_at if self._asked_at is not None else 0.0
        return replace(self, _asked_at=observed.at, health=self.health.after_silence(waited))

    def _after_reading(self, reading: CounterReading, config: GateConfig) -> "ServingMonitor":
        read = replace(self, blind=None, _last=reading, _asked_at=reading.at)
        if self._last is None:
            return read
        window = Window(self._last, reading)
        never_finished = self._never_finished_after(window)
        prefilling = any(_is_prefilling(end.counters, never_finished) for end in (window.before, window.after))
        health = self.health.after_window(window, config, prefilling=prefilling)
        return replace(read, health=health, _never_finished=never_finished)

    def _never_finished_after(self, window: Window) -> float:
        """How many of the requests that seem to be decoding are in fact gone.

        A request with its first token that has not finished is decoding; all other requests on the engine are still
        prefilling. More decoding requests than requests in total means that the surplus exists in the counters only.
        """
        after = window.after.counters
        surplus = _decoding(after) - after.unfinished
        return surplus if window.idle else max(self._never_finished, surplus)


def _decoding(counters: EngineCounters) -> float:
    return (counters.first_tokens or 0) - (counters.finished or 0)


def _is_prefilling(counters: EngineCounters, never_finished: float) -> bool:
    """Whether some request on the engine is still at its prompt."""
    if counters.finished is None or counters.first_tokens is None:
        return False
    return counters.unfinished > _decoding(counters) - never_finished
