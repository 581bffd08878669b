"""Watching an engine that serves: its counters every few seconds, and nothing of ours on it.

A look costs the engine one page of metrics. What the looks mean is `serving_health`.
"""

import asyncio
from dataclasses import dataclass

from flash_contracts.gate_config import GateConfig
from flash_engine.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.gate.engine_client import EngineClient, EngineRequestError
from flash_engine.gate.serving_health import Look, ServingHealth, Window


@dataclass
class ServingWatch:
    """Of one run of the engine; `forget` begins a new one."""

    client: EngineClient
    serving_health: ServingHealth = ServingHealth()  # noqa: RUF009 - frozen
    blind: str | None = None
    """What its metrics lack, so that it is not watched."""
    _last: Look | None = None
    _looked_at: float | None = None
    _unended: float = 0.0
    """Requests that got a first token and do not count as ended, though they are gone: those that were cut off."""

    def forget(self) -> None:
        self.serving_health, self._last, self._looked_at, self.blind, self._unended = (
            ServingHealth(),
            None,
            None,
            None,
            0.0,
        )

    async def look(self, config: GateConfig) -> None:
        """Read the counters where that is due, and add up what they say."""
        now = asyncio.get_running_loop().time()
        if self._looked_at is not None and now - self._looked_at < config.serving.watch_seconds:
            return
        waited = now - self._looked_at if self._looked_at is not None else 0.0
        self._looked_at = now
        try:
            seen = Look(now, await self.client.counters())
        except EngineRequestError:
            self.serving_health = self.serving_health.after_silence(waited)
            return
        except MissingMetricsError as error:
            self.blind = str(error)
            return
        self.blind = None
        if self._last is not None:
            window = Window(self._last, seen)
            self.serving_health = self.serving_health.after_window(window, config, reading=self._is_reading(window))
        self._last = seen

    def _is_reading(self, window: Window) -> bool:
        """Whether some request is still at its prompt, at the window's begin or end.

        Requests that have their first token and have not ended are decoding; the others that run are reading. There
        are never more of the former than of both, which tells how many of them are only left in the counters.
        """
        after = window.after.counters
        surplus = _open(after) - after.unfinished
        self._unended = surplus if window.idle else max(self._unended, surplus)
        return any(_reading(look.counters, self._unended) for look in (window.before, window.after))


def _open(counters: EngineCounters) -> float:
    return (counters.first_tokens or 0) - (counters.finished or 0)


def _reading(counters: EngineCounters, unended: float) -> bool:
    if counters.finished is None or counters.first_tokens is None:
        return False
    return counters.unfinished > _open(counters) - unended
