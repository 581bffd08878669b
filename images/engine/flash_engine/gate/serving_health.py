"""Tracks a serving engine's health from its Prometheus counters, one window between two readings at a time. Pure.

    window                                          what it shows
    no requests                                     nothing, but the engine is idle and can be measured
    requests, but no progress                       a stall; after `stallSeconds` of it in a row the engine hangs
    a prompt is prefilled, or too little decoding   nothing about speed: decoding shares its steps with prompts
    decoding only, slower than the floor            a bad window: after `windows` in a row the engine is suspected to
                                                    be degraded, and measured once it is idle; after BUSY_FACTOR times
                                                    as many it is believed to be, although it was never idle
    drafts, but next to none accepted               likewise

The speed of a window is that of one request times the number of requests. Several streams together decode at least as
fast as a single one, so this can be compared with the floor of a single stream. Uncertainty always counts in favour of
the engine: a false alarm costs users a replica, while a missed one is caught in the next window.
"""

from dataclasses import dataclass, replace

from flash_contracts.gate_config import GateConfig
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.verdict import DEAD_DRAFT_PERCENT

BUSY_FACTOR = 4

SILENCE_FACTOR = 5
"""Missing counters must last longer than a stall: a busy engine answers late."""

LEAST_SHARE = 0.5
"""Least share of a window spent decoding. Not a number of tokens: the slower the engine, the fewer it produces."""

PROMPT_TOKENS_PER_SECOND = 50.0
"""Prompts up to this rate hardly slow decoding; above it the window shows nothing."""

LEAST_DRAFTED = 200
"""The acceptance of fewer drafts is chance."""

DEAD_TIMES = 1
"""How often LEAST_DRAFTED must be dead. Once is enough: a working head has 40 % accepted, far from 2 % of 200."""


@dataclass(frozen=True)
class CounterReading:
    """The counters, and when they were read (seconds)."""

    at: float
    counters: EngineCounters


@dataclass(frozen=True)
class Window:
    """What changed between two readings."""

    before: CounterReading
    after: CounterReading

    @property
    def seconds(self) -> float:
        return self.after.at - self.before.at

    @property
    def was_reset(self) -> bool:
        return self.after.counters.generated < self.before.counters.generated

    @property
    def idle(self) -> bool:
        before, after = self.before.counters, self.after.counters
        return before.unfinished == after.unfinished == 0 and before.generated == after.generated

    @property
    def busy(self) -> bool:
        return self.before.counters.unfinished > 0 and self.after.counters.unfinished > 0

    @property
    def moved(self) -> bool:
        """The engine made progress. While it prefills a long prompt, only its KV cache grows."""
        return any(self._change(name) not in (None, 0) for name in ("generated", "steps", "kv_cache"))

    @property
    def drafts(self) -> tuple[float, float]:
        """Drafted and accepted tokens."""
        return self._change("drafted") or 0, self._change("accepted") or 0

    @property
    def decode_tokens_per_second(self) -> float | None:
        """All requests together; None if the window shows nothing about speed."""
        first_tokens, seconds = self._change("first_tokens"), self._change("decode_seconds")
        prompts = self._change("processed")
        if first_tokens is None or prompts is None or not seconds:
            return None
        generated = self._change("generated") or 0
        if seconds < LEAST_SHARE * self.seconds or prompts - generated > PROMPT_TOKENS_PER_SECOND * self.seconds:
            return None
        streams = max(1.0, self.before.counters.running, self.after.counters.running, seconds / self.seconds)
        return (generated - first_tokens) / seconds * streams

    def _change(self, name: str) -> float | None:
        before, after = getattr(self.before.counters, name), getattr(self.after.counters, name)
        return None if before is None or after is None else after - before


@dataclass(frozen=True)
class ServingHealth:
    """The result of all windows so far."""

    bad: int = 0
    """Bad windows in a row. Windows that show nothing are not counted."""
    good: int = 0
    """Good windows in a row."""
    message: str = ""
    """What was bad in the latest bad window."""
    still_seconds: float = 0.0
    """How long there have been requests but no progress."""
    silent_seconds: float = 0.0
    """How long its counters could not be read."""
    idle: bool = False
    decode_tokens_per_second: float | None = None
    """In the latest window that showed a speed."""
    dead: int = 0
    """How many times in a row next to none of LEAST_DRAFTED drafts was accepted."""
    drafted: float = 0.0
    accepted: float = 0.0
    """In the windows since the drafts were last judged."""

    def after_window(self, window: Window, config: GateConfig, *, prefilling: bool = False) -> "ServingHealth":
        """`prefilling`: some request has no first token yet, so decoding shares the engine with its prompt."""
        if window.was_reset:
            return ServingHealth()
        still = self.still_seconds + window.seconds if window.busy and not window.moved else 0.0
        seen = replace(self, still_seconds=still, silent_seconds=0.0, idle=window.idle)
        rate = None if prefilling else window.decode_tokens_per_second
        return _after_drafts(_after_speed(seen, rate, config), window, config)

    def after_silence(self, seconds: float) -> "ServingHealth":
        """The counters could not be read for this much longer."""
        return replace(self, silent_seconds=self.silent_seconds + seconds, idle=False)

    def suspected(self, config: GateConfig) -> bool:
        """Bad enough to be measured once it is idle."""
        return self.bad >= config.serving.windows or self.dead >= DEAD_TIMES

    def believed(self, config: GateConfig) -> bool:
        """Bad for so long that it counts as degraded without a measurement."""
        return self.bad >= BUSY_FACTOR * config.serving.windows or self.dead >= BUSY_FACTOR * DEAD_TIMES

    def recovered(self, config: GateConfig) -> bool:
        """Good for so long that a degradation inferred from traffic is over."""
        return self.good >= config.serving.windows and not self.dead

    def hangs(self, config: GateConfig) -> bool:
        stall = config.serving.stall_seconds
        return self.still_seconds >= stall or self.silent_seconds >= SILENCE_FACTOR * stall

    @property
    def hang_message(self) -> str:
        if self.silent_seconds:
            return f"the engine hangs: its counters could not be read for {self.silent_seconds:.0f} s"
        return f"the engine hangs: it has requests but has made no progress for {self.still_seconds:.0f} s"


def _after_speed(serving_health: ServingHealth, rate: float | None, config: GateConfig) -> ServingHealth:
    if rate is None:
        return serving_health
    least = config.floor * (1 - config.serving.tolerance_percent / 100)
    if rate >= least:
        return replace(serving_health, bad=0, good=serving_health.good + 1, decode_tokens_per_second=rate)
    message = f"users' requests decode at {rate:.1f} tok/s, wanted at least {least:.1f}"
    return replace(serving_health, bad=serving_health.bad + 1, good=0, message=message, decode_tokens_per_second=rate)


def _after_drafts(serving_health: ServingHealth, window: Window, config: GateConfig) -> ServingHealth:
    drafted, accepted = (
        sum(both) for both in zip((serving_health.drafted, serving_health.accepted), window.drafts, strict=True)
    )
    if drafted < LEAST_DRAFTED:
        return replace(serving_health, drafted=drafted, accepted=accepted)
    seen, share = replace(serving_health, drafted=0.0, accepted=0.0), 100 * accepted / drafted
    if share >= DEAD_DRAFT_PERCENT or not config.speculation.expected:
        return replace(seen, dead=0)
    message = f"{accepted:g} of {drafted:g} drafts for users' requests were accepted: the MTP head is dead"
    return replace(seen, dead=serving_health.dead + 1, message=message)
