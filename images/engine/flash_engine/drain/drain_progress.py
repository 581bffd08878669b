"""Decides when a draining engine may stop, from successive readings of its counters. Pure."""

from dataclasses import dataclass, replace

from flash_engine.engine_metrics import EngineCounters

SETTLE_SECONDS = 5.0
"""Clients and proxies notice a removed endpoint only after seconds, and send requests until then."""

STILL_SECONDS = 60.0
"""An engine that makes no progress for this long will not finish its requests either."""

ASK_SECONDS = 10.0
"""After this long without progress, the engine is asked for a token once: the gauges of some engines still count
aborted requests, for which waiting would be pointless."""

ASKED_TOKENS = 1


@dataclass(frozen=True)
class DrainProgress:
    """What the readings have shown so far. Times are seconds of one clock."""

    began: float
    timeout: float
    quiet_since: float | None = None
    moved_at: float | None = None
    counters: EngineCounters | None = None
    asked: bool = False
    """The engine has been asked for a token."""
    before_token: EngineCounters | None = None
    """The counters before the token that it produced, until the next reading."""
    abandoned: float = 0.0
    """Requests that the gauges show although the engine answers and does no other work."""

    def after_counters(self, counters: EngineCounters | None, at: float) -> "DrainProgress":
        """`counters` is None if they could not be read: a busy engine answers late."""
        if counters is None:
            return replace(self, quiet_since=None)
        moved = self.counters is None or counters != self.counters
        abandoned = self._abandoned_after(counters, moved=moved)
        is_busy = counters.unfinished > abandoned
        quiet = None if is_busy else (self.quiet_since if self.quiet_since is not None else at)
        return replace(
            self, quiet_since=quiet, moved_at=at if moved else self.moved_at, counters=counters, before_token=None,
            abandoned=abandoned,
        )  # fmt: skip

    def _abandoned_after(self, counters: EngineCounters, *, moved: bool) -> float:
        """An engine that produced only our token has no other requests. Any later change proves that it does."""
        if self.before_token is not None:
            is_alone = counters.generated - self.before_token.generated <= ASKED_TOKENS
            return min(self.before_token.unfinished, counters.unfinished) if is_alone else 0.0
        return 0.0 if moved else self.abandoned

    def must_ask(self, at: float) -> bool:
        """Whether to ask the engine for a token now."""
        is_waited_for = self.counters is not None and self.counters.unfinished > 0
        return is_waited_for and not self.asked and self.moved_at is not None and at - self.moved_at >= ASK_SECONDS

    def after_question(self, *, answered: bool) -> "DrainProgress":
        """A missing answer proves nothing: the engine may hang, or read a long prompt."""
        return replace(self, asked=True, before_token=self.counters if answered else None)

    def outcome(self, at: float) -> str | None:
        """Why waiting is over; None while it is not."""
        if self.quiet_since is not None and at - max(self.quiet_since, self.began) >= self.settle:
            return f"no requests are left{self._gauges()}"
        if at - self.began >= self.timeout:
            return f"{self._left()} after {self.timeout:g} s, which is drain.timeoutSeconds"
        if self.moved_at is not None and at - self.moved_at >= STILL_SECONDS:
            return f"{self._left()}, and the engine makes no progress"
        return None

    @property
    def settle(self) -> float:
        """At most the user's own timeout."""
        return min(SETTLE_SECONDS, self.timeout)

    def _gauges(self) -> str:
        if not self.abandoned:
            return ""
        return f": the engine answers and does no other work, although its gauges show {self.abandoned:g}"

    def _left(self) -> str:
        if self.counters is None:
            return "the engine does not answer"
        left = self.counters.unfinished
        return "1 request is left" if left == 1 else f"{left:g} requests are left"
