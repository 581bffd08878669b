"""Tracks a serving engine's health from its Prometheus counters. Pure.

Progress is judged between two consecutive readings. Speed is judged over a span: from one reading to another, with no
prompt being read at either and enough decoding between them.

    what is seen                             what it means
    no requests                              the engine is idle and can be measured
    requests, but no progress                a stall: after half of `stallSeconds` the engine is asked; after all of
                                             them it hangs, unless it answered
    decoding, slower than the floor for      a bad span: after `windows` in a row the engine is suspected to be
    certain                                  degraded, and measured once it is idle; after BUSY_FACTOR times as many
                                             it counts as degraded even if it was never idle
    decoding that prompts may have slowed    nothing (`decode_speed` has the bounds)
    drafts, but next to none accepted        likewise

The speed is that of one request times the number of requests. Several streams together decode at least as fast as a
single one, so this can be compared with the floor of a single stream. Uncertainty always counts in favour of the
engine: a false alarm costs users a replica, while a missed one is caught by a later span.
"""

from dataclasses import dataclass, replace
from enum import Enum

from flash_contracts.gate_config import GateConfig
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.decode_speed import STEP_TOKENS, DecodeSpeed, decode_speed
from flash_engine.gate.speed_checks import DEAD_DRAFT_PERCENT

BUSY_FACTOR = 4

SILENCE_FACTOR = 5
"""Counters must be missing this many times as long as a stall lasts before it counts as a hang: a busy engine answers
late. The same holds for a stall of an engine that could not be asked."""

ASK_SHARE = 0.5
"""The engine is asked after this share of the time to a hang, and has the rest to answer."""

LEAST_SHARE = 0.5
"""A span has at least this share of `watchSeconds` of undisturbed decoding. It is not a number of tokens, because a
slow engine produces few."""

LEAST_DRAFTED = 200
"""The acceptance of fewer drafts is chance."""

DEAD_TIMES = 1
"""How often LEAST_DRAFTED must be dead. Once is enough: a working head has 40 % accepted, far from 2 % of 200."""


class Reply(Enum):
    """The outcome of asking an engine without progress for a token."""

    ANSWERED = "a token: its gauges are wrong, and it does not hang"
    NONE = "no token in time"
    REFUSED = "an error, which shows nothing: too many requests, or an unknown key"


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
    abandoned: float = 0.0
    """Requests that the gauges still show although they are gone, as the answer to the gate's own request proved."""

    @property
    def seconds(self) -> float:
        return self.after.at - self.before.at

    @property
    def was_reset(self) -> bool:
        return self.after.counters.generated < self.before.counters.generated

    @property
    def idle(self) -> bool:
        before, after = self.before.counters, self.after.counters
        return not self._unfinished(before) and not self._unfinished(after) and before.generated == after.generated

    @property
    def busy(self) -> bool:
        return self._unfinished(self.before.counters) > 0 and self._unfinished(self.after.counters) > 0

    @property
    def moved(self) -> bool:
        """The engine made progress. While it prefills a long prompt, only its KV cache grows."""
        return any(self._change(name) not in (None, 0) for name in ("generated", "steps", "kv_cache"))

    @property
    def drafts(self) -> tuple[float, float]:
        """Drafted and accepted tokens."""
        return self._change("drafted") or 0, self._change("accepted") or 0

    @property
    def decode_seconds(self) -> float:
        """Time between tokens, summed over requests; 0 if unknown."""
        return self._change("decode_seconds") or 0.0

    @property
    def was_preempted(self) -> bool:
        """A request was evicted and read again, which slows the others and is not counted as a prompt."""
        return bool(self._change("preemptions"))

    def decode_speed(
        self,
        config: GateConfig,
        *,
        running: float = 0.0,
        piece: int = STEP_TOKENS,
        later: EngineCounters | None = None,
    ) -> DecodeSpeed | None:
        """`running`: the most requests that were seen on the engine in between. `later`: see `decode_speed`."""
        before, after = self.before.counters, self.after.counters
        seen = max(running, before.running, after.running) - self.abandoned
        streams = max(1.0, seen, self.decode_seconds / self.seconds if self.seconds > 0 else 0.0)
        return decode_speed(before, after, streams=streams, config=config, piece=piece, later=later)

    def _unfinished(self, counters: EngineCounters) -> float:
        return max(0.0, counters.unfinished - self.abandoned)

    def _change(self, name: str) -> float | None:
        before, after = getattr(self.before.counters, name), getattr(self.after.counters, name)
        return None if before is None or after is None else after - before


@dataclass(frozen=True)
class ServingHealth:
    """The result of all readings so far."""

    bad: int = 0
    """Bad spans in a row. Those that show nothing are not counted."""
    good: int = 0
    """Good spans in a row."""
    message: str = ""
    """What was bad in the latest bad span."""
    still_seconds: float = 0.0
    """How long there have been requests but no progress."""
    silent_seconds: float = 0.0
    """How long its counters could not be read."""
    reply: Reply | None = None
    """The outcome of asking it in this stall; None if it was not asked or has not replied yet."""
    idle: bool = False
    decode_tokens_per_second: float | None = None
    """In the latest span that was judged."""
    dead: int = 0
    """How many times in a row next to none of LEAST_DRAFTED drafts was accepted."""
    drafted: float = 0.0
    accepted: float = 0.0
    """In the windows since the drafts were last judged."""

    def after_window(self, window: Window, config: GateConfig) -> "ServingHealth":
        """Progress and drafts between two readings in a row."""
        if window.was_reset:
            return ServingHealth()
        still = self.still_seconds + window.seconds if window.busy and not window.moved else 0.0
        reply = self.reply if still else None
        seen = replace(self, still_seconds=still, silent_seconds=0.0, reply=reply, idle=window.idle)
        return _after_drafts(seen, window, config)

    def after_silence(self, seconds: float) -> "ServingHealth":
        """The counters could not be read for this much longer."""
        return replace(self, silent_seconds=self.silent_seconds + seconds, idle=False)

    def after_span(self, speed: DecodeSpeed, config: GateConfig) -> "ServingHealth":
        """Judge one more span that has enough decoding."""
        least = config.floor * (1 - config.serving.tolerance_percent / 100)
        if speed.most < least:
            message = f"users' requests decode at {speed.most:.1f} tok/s, wanted at least {least:.1f}"
            return replace(self, bad=self.bad + 1, good=0, message=message, decode_tokens_per_second=speed.most)
        if speed.least >= least:
            return replace(self, bad=0, good=self.good + 1, decode_tokens_per_second=speed.least)
        return replace(self, decode_tokens_per_second=speed.least)

    def after_reply(self, reply: Reply) -> "ServingHealth":
        """The engine replied, or failed to, after it was asked because it seemed to hang."""
        if reply is Reply.ANSWERED:
            return replace(self, still_seconds=0.0, silent_seconds=0.0, reply=None)
        return replace(self, reply=reply)

    def suspected(self, config: GateConfig) -> bool:
        """Bad enough to be measured once it is idle."""
        return self.bad >= config.serving.windows or self.dead >= DEAD_TIMES

    def believed(self, config: GateConfig) -> bool:
        """Bad for so long that it counts as degraded without a measurement."""
        return self.bad >= BUSY_FACTOR * config.serving.windows or self.dead >= BUSY_FACTOR * DEAD_TIMES

    def recovered(self, config: GateConfig) -> bool:
        """Good for so long that a degradation inferred from traffic is over."""
        return self.good >= config.serving.windows and not self.dead

    def must_be_asked(self, config: GateConfig) -> bool:
        """Whether it has been without progress long enough to be asked for a token."""
        return self.reply is None and self._patience_used(config) >= ASK_SHARE

    def hangs(self, config: GateConfig) -> bool:
        """Whether it hangs. It must have been asked first, because gauges may stay up after their requests are gone."""
        needed = {Reply.NONE: 1, Reply.REFUSED: SILENCE_FACTOR}
        return self.reply in needed and self._patience_used(config) >= needed[self.reply]

    def _patience_used(self, config: GateConfig) -> float:
        """How much of the time to a hang has passed, as a share."""
        stall = config.serving.stall_seconds
        return max(self.still_seconds / stall, self.silent_seconds / (SILENCE_FACTOR * stall))

    @property
    def hang_message(self) -> str:
        if self.silent_seconds:
            return f"the engine hangs: its counters could not be read for {self.silent_seconds:.0f} s"
        return f"the engine hangs: it has requests but has made no progress for {self.still_seconds:.0f} s"


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
