"""How an engine stands that has passed and serves, read from its own counters, window by window. Pure.

    window                                       what it says
    no request on it                             nothing; it is idle, and can be measured
    requests on it, and no step of the engine    it stands still; for `stallSeconds` in a row: it hangs
    a prompt is read, or tokens are few          nothing of the speed: decoding shares its steps with prompts
    decoding alone, slower than the floor        a bad look; `windows` of them in a row are a suspicion, and
                                                 BUSY_FACTOR times as many are believed where it is never idle
    drafts, and next to none accepted            likewise

The speed of a window is that of its requests, times how many there were: an engine gives several streams together at
least what it gives one alone, so this can be held to the floor of one. What is not known for certain is counted in
favour of the engine, for a suspicion costs users a replica, and one that is missed is found by the next window.
"""

from dataclasses import dataclass, replace

from flash_contracts.gate_config import GateConfig
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.verdict import DEAD_DRAFT_PERCENT

BUSY_FACTOR = 4

SILENCE_FACTOR = 5
"""Silence is no proof of a stall: a busy engine answers late."""

LEAST_SHARE = 0.5
"""Of a window that must be spent decoding. No number of tokens: the slower an engine is, the fewer it has."""

PROMPT_TOKENS_PER_SECOND = 50.0
"""Prompts of so many tokens cost decoding next to nothing; longer ones do."""

LEAST_DRAFTED = 200
"""A share of fewer drafts is chance."""

DEAD_TIMES = 1
"""Of LEAST_DRAFTED: a head that lives has 40 % accepted, and 2 % of 200 is then out of all chance."""


@dataclass(frozen=True)
class Look:
    """The counters, and when they were read (seconds)."""

    at: float
    counters: EngineCounters


@dataclass(frozen=True)
class Window:
    """What changed between two looks."""

    before: Look
    after: Look

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
        """The engine made a step. One that reads a long prompt fills its cache and gives no token."""
        return any(self._change(name) not in (None, 0) for name in ("generated", "steps", "kv_cache"))

    @property
    def drafts(self) -> tuple[float, float]:
        """Drafted and accepted tokens."""
        return self._change("drafted") or 0, self._change("accepted") or 0

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Of all its requests together; None where the window does not tell."""
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
    """What the windows so far add up to."""

    bad: int = 0
    """Bad windows in a row; those that tell nothing do not count either way."""
    good: int = 0
    """Good windows in a row."""
    told: str = ""
    """What was last bad, in words."""
    still_seconds: float = 0.0
    """Requests were on it, and it made no step."""
    silent_seconds: float = 0.0
    """Its counters could not be read."""
    idle: bool = False
    decode_tokens_per_second: float | None = None
    """Of the last window that told."""
    dead: int = 0
    """Times in a row that next to no draft of LEAST_DRAFTED was accepted."""
    drafted: float = 0.0
    accepted: float = 0.0
    """Of the windows since drafts were last judged."""

    def after_window(self, window: Window, config: GateConfig, *, reading: bool = False) -> "ServingHealth":
        """`reading`: a request has no first token yet, so that decoding shares the engine with its prompt."""
        if window.was_reset:
            return ServingHealth()
        still = self.still_seconds + window.seconds if window.busy and not window.moved else 0.0
        seen = replace(self, still_seconds=still, silent_seconds=0.0, idle=window.idle)
        rate = None if reading else window.decode_tokens_per_second
        return _after_drafts(_after_speed(seen, rate, config), window, config)

    def after_silence(self, seconds: float) -> "ServingHealth":
        """Its counters could not be read for so long more."""
        return replace(self, silent_seconds=self.silent_seconds + seconds, idle=False)

    def suspected(self, config: GateConfig) -> bool:
        """Bad enough to be measured as soon as nobody is on it."""
        return self.bad >= config.serving.windows or self.dead >= DEAD_TIMES

    def believed(self, config: GateConfig) -> bool:
        """Bad for so long that it counts without being measured."""
        return self.bad >= BUSY_FACTOR * config.serving.windows or self.dead >= BUSY_FACTOR * DEAD_TIMES

    def recovered(self, config: GateConfig) -> bool:
        return self.good >= config.serving.windows and not self.dead

    def hangs(self, config: GateConfig) -> bool:
        stall = config.serving.stall_seconds
        return self.still_seconds >= stall or self.silent_seconds >= SILENCE_FACTOR * stall

    @property
    def hang_told(self) -> str:
        if self.silent_seconds:
            return f"the engine has not told its counters for {self.silent_seconds:.0f} s: it hangs"
        return f"requests are on the engine, and it made no step in {self.still_seconds:.0f} s: it hangs"


def _after_speed(serving_health: ServingHealth, rate: float | None, config: GateConfig) -> ServingHealth:
    if rate is None:
        return serving_health
    least = config.floor * (1 - config.serving.tolerance_percent / 100)
    if rate >= least:
        return replace(serving_health, bad=0, good=serving_health.good + 1, decode_tokens_per_second=rate)
    told = f"traffic decodes at {rate:.1f} tok/s, wanted at least {least:.1f}"
    return replace(serving_health, bad=serving_health.bad + 1, good=0, told=told, decode_tokens_per_second=rate)


def _after_drafts(serving_health: ServingHealth, window: Window, config: GateConfig) -> ServingHealth:
    drafted, accepted = (
        sum(both) for both in zip((serving_health.drafted, serving_health.accepted), window.drafts, strict=True)
    )
    if drafted < LEAST_DRAFTED:
        return replace(serving_health, drafted=drafted, accepted=accepted)
    seen, share = replace(serving_health, drafted=0.0, accepted=0.0), 100 * accepted / drafted
    if share >= DEAD_DRAFT_PERCENT or not config.speculation.expected:
        return replace(seen, dead=0)
    told = f"{accepted:g} of {drafted:g} drafts of traffic were accepted: the MTP head is dead"
    return replace(seen, dead=serving_health.dead + 1, told=told)
