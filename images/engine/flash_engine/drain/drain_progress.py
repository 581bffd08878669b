"""Decides when a draining engine may end, from successive readings of its counters. Pure."""

from dataclasses import dataclass, replace

from flash_engine.engine_metrics import EngineCounters

SETTLE_SECONDS = 5.0
"""Clients and proxies learn of a removed endpoint within seconds, and send requests until then."""

STILL_SECONDS = 60.0
"""An engine that makes no progress for this long will not finish its requests either."""


@dataclass(frozen=True)
class DrainProgress:
    """What the readings have shown so far. Times are seconds of one clock."""

    began: float
    timeout: float
    quiet_since: float | None = None
    moved_at: float | None = None
    counters: EngineCounters | None = None

    def after_counters(self, counters: EngineCounters | None, at: float) -> "DrainProgress":
        """`counters` is None if they could not be read: a busy engine answers late."""
        if counters is None:
            return replace(self, quiet_since=None)
        moved = self.counters is None or counters != self.counters
        quiet = None if counters.unfinished else (self.quiet_since if self.quiet_since is not None else at)
        return replace(self, quiet_since=quiet, moved_at=at if moved else self.moved_at, counters=counters)

    def outcome(self, at: float) -> str | None:
        """Why waiting is over; None while it is not."""
        if self.quiet_since is not None and at - max(self.quiet_since, self.began) >= self.settle:
            return "no requests are left"
        if at - self.began >= self.timeout:
            return f"{self._left()} after {self.timeout:g} s, which is drain.timeoutSeconds"
        if self.moved_at is not None and at - self.moved_at >= STILL_SECONDS:
            return f"{self._left()}, and the engine makes no step"
        return None

    @property
    def settle(self) -> float:
        """At most the user's own timeout."""
        return min(SETTLE_SECONDS, self.timeout)

    def _left(self) -> str:
        if self.counters is None:
            return "the engine does not answer"
        left = self.counters.unfinished
        return "1 request is left" if left == 1 else f"{left:g} requests are left"
