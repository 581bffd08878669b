"""Asks the API server whether it would accept a stored spec if it were new.

The API server lets a stored object break rules that are newer than the object, so nothing else shows it. A spec that it
accepted while this process ran breaks none. So the question is asked once for each deployment that was there before the
process, again after every change of one that breaks rules, and about all once the CRD has changed: one at a time,
beside the reconciles, because nothing waits for the answers.
"""

import asyncio
import random
from collections.abc import Callable

import structlog

from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.api_connection import TooLargeError
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.keys import FlashKey, key_of

log = structlog.get_logger("flash.spec_reviews")

QUESTION_SECONDS = 1.0
"""Between two questions: an operator that starts has more urgent work to do for a thousand deployments."""

CRD_SECONDS = 300.0
"""Between two looks at the CRD: its rules change with an upgrade."""

DISCOVERY_REMEDY = "let the operator's account read /openapi/v3, as the role system:discovery does"


class SpecReviews:
    """The last answer for each deployment, and the deployments to ask about."""

    def __init__(self, cluster: Cluster, stored: Callable[[FlashKey], RawObject | None]) -> None:
        """`stored` returns a deployment from memory; None if it is gone, or another operator's."""
        self._cluster = cluster
        self._stored = stored
        self._known: dict[FlashKey, tuple[int, str | None]] = {}
        """The generation that was asked about, and what the API server objects to in it; None if it did not say."""
        self._waiting: dict[FlashKey, None] = {}
        """Deployments to ask about, in order."""
        self._schema = ""
        """The CRD's schema that the answers are about."""
        self._failure = ""
        """What was logged last."""

    def known(self, key: FlashKey) -> str | None:
        """What the API server objects to; empty if to nothing, None while that is unknown."""
        return self._known[key][1] if key in self._known else None

    def notice(self, raw: RawObject) -> None:
        """Called for each look at a deployment. One without a status is new: the API server has just accepted it."""
        key = key_of(raw)
        if not (raw.get("status") or {}).get("observedGeneration") and key not in self._waiting:
            self._known.setdefault(key, (_generation(raw), ""))
        before = self._known.get(key)
        if before is None or (before[1] and before[0] != _generation(raw)):
            self._waiting.setdefault(key)

    def forget(self, key: FlashKey) -> None:
        self._known.pop(key, None)
        self._waiting.pop(key, None)

    async def run(self, on_news: Callable[[FlashKey], None]) -> None:
        """Asks for ever, and calls `on_news` with each deployment for which the answer has changed."""
        while True:
            if key := await self.ask_next():
                on_news(key)
            await asyncio.sleep(QUESTION_SECONDS)

    async def follow_crd(self) -> None:
        """Looks for ever whether the CRD has changed."""
        while True:
            await self.look_at_crd()
            await asyncio.sleep(CRD_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    async def look_at_crd(self) -> None:
        """Asks about all deployments again if the CRD has changed. Until then their last answers stay."""
        try:
            schema = await self._cluster.schema_version()
        except (ApiError, UnreachableError, TooLargeError) as error:
            failure = str(error) or "the answer is too large"
            if failure != self._failure:
                self._failure = failure
                effect = "stored specs are reviewed when an operator starts, and not when the CRD is upgraded"
                log.warning("the CRD's schema cannot be read", error=failure, effect=effect, remedy=DISCOVERY_REMEDY)
            return
        self._failure = ""
        if schema is not None and schema != self._schema:
            self._schema = schema
            log.info("stored specs are reviewed", schema=schema)
            for key in self._known:
                self._waiting.setdefault(key)

    async def ask_next(self) -> FlashKey | None:
        """Asks about the deployment that has waited longest. Returns it if the answer has changed."""
        key = next(iter(self._waiting), None)
        if key is None:
            return None
        del self._waiting[key]
        raw = self._stored(key)
        return await self._ask(key, raw) if raw is not None else None

    async def _ask(self, key: FlashKey, raw: RawObject) -> FlashKey | None:
        before = self.known(key)
        try:
            found: str | None = await self._cluster.objection(raw)
        except (ApiError, UnreachableError) as error:
            log.warning("the spec was not reviewed", key=str(key), error=str(error))
            if isinstance(error, UnreachableError) or error.overloaded:
                self._waiting.setdefault(key)
                return None
            found = None
        self._known[key] = _generation(raw), found
        return key if (found or "") != (before or "") else None


def _generation(raw: RawObject) -> int:
    return int(raw["metadata"].get("generation", 0))
