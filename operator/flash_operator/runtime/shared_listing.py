"""One list for all who ask at the same time: it is made again only if the last one is too old."""

import asyncio
import math
from collections.abc import Awaitable, Callable


class SharedListing:
    """When something was listed last."""

    def __init__(self, list_all: Callable[[], Awaitable[bool]], clock: Callable[[], float]) -> None:
        """`list_all` returns whether it could list everything. A list that failed counts too, until it is too old."""
        self._list_all = list_all
        self._clock = clock
        self._listed_at = float("-inf")
        self._lock = asyncio.Lock()

    async def refresh(self, most_age: float) -> None:
        """Lists if the last list is that many seconds old; with an infinite age never."""
        async with self._lock:
            if math.isfinite(most_age) and self._clock() - self._listed_at >= most_age:
                await self._list()

    async def renew(self) -> bool:
        """Lists in any case."""
        async with self._lock:
            return await self._list()

    def outdate(self) -> None:
        """What was listed is known to be wrong."""
        self._listed_at = float("-inf")

    async def _list(self) -> bool:
        self._listed_at = self._clock()
        return await self._list_all()
