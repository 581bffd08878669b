"""Asks the API server whether it would take a stored spec if it were new.

It lets a stored object break rules that are newer than the object, so nothing else tells. A spec that it took while
this process ran breaks none. So the question is asked once for each deployment that was there before the process, and
again after every change of one that breaks rules.
"""

import time
from collections.abc import Callable

import structlog

from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.keys import FlashKey, key_of

log = structlog.get_logger("flash.spec_reviews")

QUESTION_SECONDS = 0.5
"""Between two questions: nobody waits for the answers, and an operator that starts has more urgent work to do for a
thousand deployments."""
NEWS_SECONDS = 1.0


class SpecReviews:
    """The last answer for each deployment."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._known: dict[FlashKey, tuple[int, str | None]] = {}
        """The generation that was asked about, and what the API server objects to in it; None if it did not say."""
        self._turns: dict[FlashKey, float] = {}
        """When the next question about a deployment may be asked."""
        self._next_turn = 0.0

    def known(self, key: FlashKey) -> str | None:
        """What the API server objects to; empty if to nothing, None while that is unknown."""
        return self._known[key][1] if key in self._known else None

    def notice(self, raw: RawObject) -> None:
        """A deployment without a status is new: the API server has just taken it."""
        if not (raw.get("status") or {}).get("observedGeneration") and key_of(raw) not in self._turns:
            self._known.setdefault(key_of(raw), (_generation(raw), ""))

    def forget(self, key: FlashKey) -> None:
        self._known.pop(key, None)
        self._turns.pop(key, None)

    async def review(self, raw: RawObject) -> float | None:
        """Asks if the answer may be another one than is known.

        Returns the seconds until the deployment should be looked at again: because its turn comes, or there is news.
        """
        key = key_of(raw)
        before = self._known.get(key)
        if before is not None and (not before[1] or before[0] == _generation(raw)):
            return None
        now = self._clock()
        if key not in self._turns:
            self._turns[key] = max(now, self._next_turn)
            self._next_turn = self._turns[key] + QUESTION_SECONDS
        if self._turns[key] > now:
            return self._turns[key] - now
        try:
            found = await self._cluster.objection(raw)
        except (ApiError, UnreachableError) as error:
            log.warning("the spec was not reviewed", key=str(key), error=str(error))
            if isinstance(error, UnreachableError) or error.overloaded:
                return None
            found = None
        del self._turns[key]
        self._known[key] = _generation(raw), found
        return NEWS_SECONDS if (found or "") != (before[1] if before else "") else None


def _generation(raw: RawObject) -> int:
    return int(raw["metadata"].get("generation", 0))
