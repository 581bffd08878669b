"""Lets one deployment at a time take its engine update (`spec.rollout.engineUpdates: Paced`).

The turn is in the statuses: a deployment of this operator's class that is Updating has it. `UpdateTurn` only decides
between deployments that ask at the same moment, so a new operator process needs no memory of the former one's.
"""

import asyncio
import time
from collections.abc import Callable

from flash_contracts.names import KIND
from flash_operator.core.rollout.engine_update import holds_turn
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.keys import FlashKey, is_of_class, key_of

CLAIM_SECONDS = 60.0
"""From the claim to the status that says Updating: the same reconcile. A claim that is not used passes on."""


class UpdateTurn:
    """Whose turn it is."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str | None = None,
        operator_class: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._operator_class = operator_class
        self._clock = clock
        self._lock = asyncio.Lock()
        self._claim: tuple[FlashKey, float] | None = None

    async def holder(self, key: FlashKey) -> str:
        """NAMESPACE/NAME of the deployment that has the turn: `key` itself if nobody else has it."""
        async with self._lock:
            found = await self._cluster.list(KIND, self._namespace)
            ours = (flash for flash in found if is_of_class(flash, self._operator_class))
            updating = [key_of(flash) for flash in ours if holds_turn(flash)]
            others = sorted(other for other in updating if other != key)
            claimed_by = self._claimed_by()
            holder = key if key in updating else next(iter(others), None) or claimed_by or key
            if holder == key != claimed_by:
                self._claim = (key, self._clock())
            return str(holder)

    def _claimed_by(self) -> FlashKey | None:
        if self._claim is None or self._clock() - self._claim[1] > CLAIM_SECONDS:
            return None
        return self._claim[0]
