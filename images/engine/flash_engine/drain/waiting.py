"""When an engine on its way out has nothing left to lose: a fold over looks at its counters. Pure."""

from dataclasses import dataclass, replace

from flash_engine.engine_metrics import EngineCounters

SETTLE_SECONDS = 5.0
"""Clients and proxies learn of an endpoint that goes within seconds, and send requests until then."""

STILL_SECONDS = 60.0
"""An engine that makes no step for so long will not end its requests either."""


@dataclass(frozen=True)
class Waiting:
    """Since when (seconds of one clock) things are as they are."""

    began: float
    timeout: float
    quiet_since: float | None = None
    moved_at: float | None = None
    counters: EngineCounters | None = None

    def after_look(self, counters: EngineCounters | None, at: float) -> "Waiting":
        """`counters` is None where they could not be read: a busy engine answers late."""
        if counters is None:
            return replace(self, quiet_since=None)
        moved = self.counters is None or counters != self.counters
        quiet = None if counters.unfinished else (self.quiet_since if self.quiet_since is not None else at)
        return replace(self, quiet_since=quiet, moved_at=at if moved else self.moved_at, counters=counters)

    def outcome(self, at: float) -> str | None:
        """Why there is nothing to wait for any more, None while there is."""
        if self.quiet_since is not None and at - max(self.quiet_since, self.began) >= self.settle:
            return "no request is left"
        if at - self.began >= self.timeout:
            return f"{self._left()} after {self.timeout:g} s, which is drain.timeoutSeconds"
        if self.moved_at is not None and at - self.moved_at >= STILL_SECONDS:
            return f"{self._left()}, and the engine makes no step"
        return None

    @property
    def settle(self) -> float:
        """No longer than the user wants to wait."""
        return min(SETTLE_SECONDS, self.timeout)

    def _left(self) -> str:
        return f"{self.counters.unfinished:g} requests are left" if self.counters else "the engine does not answer"
