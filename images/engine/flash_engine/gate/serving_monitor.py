"""Monitors a serving engine by reading its Prometheus counters every few seconds.

Each reading costs the engine one page of metrics. The monitor sends a request of its own in one case only: an engine
that seems to hang is asked for a token before anything is done about it. `serving_health` interprets the readings.
"""

import asyncio
from dataclasses import dataclass, replace

from flash_contracts.gate_config import GateConfig
from flash_contracts.gate_result import MOST_REQUESTS, RequestLoad
from flash_contracts.trial_record import Stall
from flash_engine.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.gate.decode_speed import STEP_TOKENS
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.engine_errors import EngineRequestError, NoAnswerError
from flash_engine.gate.serving_health import (
    ASK_SHARE,
    LEAST_SHARE,
    SILENCE_FACTOR,
    CounterReading,
    Reply,
    ServingHealth,
    Window,
)

ASKED_TOKENS = 1

LONGEST_SPAN = 20
"""A span that prompts disturb too much is dropped once it has this many times the decoding that it needs."""


@dataclass(frozen=True)
class CountersObserved:
    """The outcome of one request for the engine's counters."""

    at: float
    """When it was sent (seconds on the event loop's clock)."""
    counters: EngineCounters | None = None
    """None if there was no answer, or if the metrics were incomplete."""
    missing: str | None = None
    """Which metrics the answer lacks."""
    own_requests: int = 0
    """How many of the counted requests are the gate's own."""


async def observe_counters(client: EngineClient) -> CountersObserved:
    """Read the counters. A failure is part of the observation, never an exception."""
    at, before = asyncio.get_running_loop().time(), client.own_requests
    try:
        counters = await client.counters()
        # A request that began or ended meanwhile may not be counted.
        return CountersObserved(at, counters=counters, own_requests=min(before, client.own_requests))
    except EngineRequestError:
        return CountersObserved(at)
    except MissingMetricsError as error:
        return CountersObserved(at, missing=str(error))


async def ask_for_token(client: EngineClient, config: GateConfig) -> Reply:
    """Ask an engine that seems to hang for a token. A failure is part of the reply, never an exception."""
    try:
        await client.one_token(config, (1 - ASK_SHARE) * config.serving.stall_seconds)
    except NoAnswerError:
        return Reply.NONE
    except EngineRequestError:
        return Reply.REFUSED
    return Reply.ANSWERED


@dataclass(frozen=True)
class ServingMonitor:
    """What the readings of one run of the engine have shown so far. Pure: a new run starts with a new monitor."""

    health: ServingHealth = ServingHealth()  # noqa: RUF009 - frozen
    blind: str | None = None
    """Why the engine cannot be monitored: the metrics it lacks."""
    asking: bool = False
    """The engine is being asked for a token."""
    last: CounterReading | None = None
    _span_began: CounterReading | None = None
    """The reading that the current span began with."""
    _span_end: CounterReading | None = None
    """The reading that will end it, once all prompts that were being read then have been counted."""
    _running: float = 0.0
    """The most requests that were on the engine in the current span."""
    _asked_at: float | None = None
    _never_finished: float = 0.0
    """Requests that got a first token and were never counted as finished although they are gone: aborted ones."""
    _answered: CounterReading | None = None
    """The last reading of a stall that ended with an answer to the gate's request."""
    _abandoned: float = 0.0
    """Requests that the gauges show although the engine answers and does no other work."""
    _own_requests: int = 0
    """The gate's own requests at the last reading."""

    @classmethod
    def of_stall(cls, stall: Stall, at: float) -> "ServingMonitor":
        """The monitor of an engine that was already hanging under an earlier process of the gate."""
        counters = EngineCounters(
            stall.generated, stall.unfinished, drafted=None, accepted=None, steps=stall.steps, kv_cache=stall.kv_cache
        )
        health = ServingHealth(still_seconds=stall.seconds, reply=Reply.NONE)
        return cls(health, last=CounterReading(at, counters))

    @property
    def stall(self) -> Stall | None:
        """What to store about an engine that hangs; None if its counters were never readable."""
        if self.last is None:
            return None
        counters, health = self.last.counters, self.health
        seconds = max(health.still_seconds, health.silent_seconds / SILENCE_FACTOR)
        return Stall(seconds, counters.generated, counters.unfinished, counters.steps, counters.kv_cache)

    def load(self, at: float) -> RequestLoad | None:
        """The requests on the engine; None if their number is unknown."""
        if self.last is None or self.blind is not None or not self.last.counters.waiting_is_known:
            return None
        counters = self.last.counters
        return RequestLoad(
            running=_count(counters.running),
            waiting=_count(counters.waiting),
            own=self._own_requests,
            abandoned=_count(self._abandoned),
            age_seconds=round(max(at - self.last.at, 0.0), 1),
        )

    def is_due(self, config: GateConfig, at: float) -> bool:
        """Whether the next reading is due."""
        return self._asked_at is None or at - self._asked_at >= config.serving.watch_seconds

    def must_ask(self, config: GateConfig) -> bool:
        """Whether to ask the engine for a token now."""
        return not self.asking and self.health.must_be_asked(config)

    def after(self, observed: CountersObserved, config: GateConfig, piece: int = STEP_TOKENS) -> "ServingMonitor":
        """The monitor with one more reading. `piece` is the result of `step_tokens`."""
        if observed.counters is not None:
            after = self._after_reading(CounterReading(observed.at, observed.counters), config, piece)
            return replace(after, _own_requests=observed.own_requests)
        if observed.missing is not None:
            return replace(self, _asked_at=observed.at, blind=observed.missing)
        waited = observed.at - self._asked_at if self._asked_at is not None else 0.0
        return replace(self, _asked_at=observed.at, health=self.health.after_silence(waited))

    def after_reply(self, reply: Reply) -> "ServingMonitor":
        """The monitor after the engine was asked for a token."""
        answered = self.last if reply is Reply.ANSWERED and self.health.still_seconds > 0 else None
        return replace(self, asking=False, health=self.health.after_reply(reply), _answered=answered)

    def _after_reading(self, reading: CounterReading, config: GateConfig, piece: int) -> "ServingMonitor":
        read = replace(self, blind=None, last=reading, _asked_at=reading.at)
        if self.last is None:
            return replace(read, _span_began=reading, health=replace(self.health, silent_seconds=0.0, reply=None))
        abandoned = self._abandoned_after(reading)
        window = Window(self.last, reading, abandoned)
        if window.was_reset:
            return replace(
                read, health=ServingHealth(), _span_began=reading, _span_end=None, _running=0.0, _never_finished=0.0
            )
        read = replace(
            read,
            health=self.health.after_window(window, config),
            _never_finished=self._never_finished_after(window),
            _running=max(self._running, reading.counters.running),
            _abandoned=abandoned,
            _answered=None,
        )
        if window.was_preempted or self._span_began is None:
            return replace(read, _span_began=reading, _span_end=None, _running=0.0)
        return read.judged(self._span_began, reading, config, piece)

    def judged(self, began: CounterReading, now: CounterReading, config: GateConfig, piece: int) -> "ServingMonitor":
        """Judges the speed if the span is long enough, and begins the next one.

        Prompts are read in order. So once as many have been counted as were being read at the span's end, all of those
        are included, and no other prompt can have slowed the span.
        """
        end = self._span_end or now
        arrived = (now.counters.first_tokens or 0) - (end.counters.first_tokens or 0)
        if arrived < _being_read(end.counters, self._never_finished, self._abandoned):
            return replace(self, _span_end=end)
        span, least = Window(began, end, self._abandoned), _least_seconds(config)
        speed = span.decode_speed(config, running=self._running, piece=piece, later=now.counters)
        following = replace(self, _span_began=end, _span_end=None, _running=0.0)
        if speed is not None and speed.undisturbed_seconds >= least:
            return replace(following, health=self.health.after_span(speed, config))
        return following if span.decode_seconds > LONGEST_SPAN * least else replace(self, _span_end=None)

    def _abandoned_after(self, reading: CounterReading) -> float:
        """An engine that generates only the gate's token has no other requests, whatever its gauges show.

        Once a gauge falls below that surplus, it is right again.
        """
        stalled = self._answered.counters if self._answered else None
        if stalled is not None and reading.counters.generated - stalled.generated <= ASKED_TOKENS:
            return min(stalled.unfinished, reading.counters.unfinished)
        return self._abandoned if reading.counters.unfinished >= self._abandoned else 0.0

    def _never_finished_after(self, window: Window) -> float:
        """How many of the requests that seem to be decoding are in fact gone.

        A request with its first token that has not finished is decoding; all other requests on the engine are still
        prefilling. More decoding requests than requests in total means that the surplus exists in the counters only.
        """
        after = window.after.counters
        surplus = _decoding(after) - after.unfinished
        return surplus if window.idle else max(self._never_finished, surplus)


def _count(gauge: float) -> int:
    """A gauge as a plausible number of requests, whatever the engine exports."""
    return round(min(max(gauge, 0.0), float(MOST_REQUESTS)))


def _least_seconds(config: GateConfig) -> float:
    """Undisturbed decoding, of all requests, that a span needs."""
    return LEAST_SHARE * config.serving.watch_seconds


def _decoding(counters: EngineCounters) -> float:
    return (counters.first_tokens or 0) - (counters.finished or 0)


def _being_read(counters: EngineCounters, never_finished: float, abandoned: float) -> float:
    """How many prompts are being read, without those of waiting requests."""
    if counters.finished is None or counters.first_tokens is None:
        return 0.0
    return counters.running - abandoned - (_decoding(counters) - never_finished)
