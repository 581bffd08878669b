"""Leader election with a Lease.

Two active operators would overwrite each other's status, so one leads and the others stand by. kopf's peering is not an
election (at equal priority every peer pauses), and the client's elector keeps renewing after the work that it guards
has died.

Times in the Lease are never compared with the local clock, because clocks differ. A standby checks by its own monotonic
clock whether the record changes, and takes over once it has not changed for the lease's duration.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from flash_contracts.names import LABEL_PREFIX
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError

log = structlog.get_logger("flash.lease")

NAME = "flash-operator"
ADDRESS_ANNOTATION = f"{LABEL_PREFIX}address"

CLOCK_STEP = 0.01
"""Seconds: a Lease is taken after its duration, and not exactly then."""


class LeaseLostError(RuntimeError):
    """Another operator may lead now: stop writing at once."""


@dataclass(frozen=True)
class LeaseTimes:
    """In seconds. A holder gives up well before a standby takes over."""

    duration: float = 15.0
    give_up: float = 10.0
    interval: float = 2.0
    standby: float = 0.5
    """How often a standby looks, which is how long it may take to notice a Lease that was released."""


class LeaderLease:
    """One candidate in the election."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        identity: str,
        times: LeaseTimes = LeaseTimes(),
        clock: Callable[[], float] = time.monotonic,
        *,
        operator_class: str = "",
        address: str = "",
    ) -> None:
        """`address` is published to the other candidates while this one leads, for what only the leader can answer."""
        self._cluster = cluster
        self._namespace = namespace
        self._identity = identity
        self._address = address
        self.leader_address: str | None = None
        """The leader's address, while this one is a standby."""
        self._name = f"{NAME}-{operator_class}" if operator_class else NAME
        self._times = times
        self._clock = clock
        self._seen: tuple[object, ...] | None = None
        self._seen_at = clock()
        self._held: RawObject | None = None
        self._renewed_at = clock()

    def seconds_left(self) -> float:
        """How long this candidate may certainly write, because no standby takes over earlier. 0 without the Lease."""
        if self._held is None:
            return 0.0
        return max(0.0, self._renewed_at + self._times.duration - self._clock())

    async def acquire(self) -> None:
        """Waits until this candidate leads. Logs once which holder it waits for."""
        waiting = False
        while not await self.try_once():
            if not waiting and self._seen:
                log.info("standing by", lease=f"{self._namespace}/{self._name}", holder=self._seen[0])
                waiting = True
            await asyncio.sleep(self._until_next_look())
        log.info("leading", identity=self._identity)

    def _until_next_look(self) -> float:
        """Until the Lease may be taken, if that comes first."""
        runs_out = self._seen_at + self._times.duration + CLOCK_STEP - self._clock()
        usual = min(self._times.interval, self._times.standby)
        return min(usual, runs_out) if runs_out > 0 else usual

    async def hold(self) -> None:
        """Renews forever. Raises LeaseLostError if renewal fails for too long, or another candidate holds the Lease."""
        while True:
            await asyncio.sleep(self._times.interval)
            if await self._renewed_within(self._times.give_up - (self._clock() - self._renewed_at)):
                continue
            if self._held is None:
                raise LeaseLostError("another operator holds the lease")
            if self._clock() - self._renewed_at > self._times.give_up:
                raise LeaseLostError(f"the lease could not be renewed for {self._times.give_up:g} s")

    async def _renewed_within(self, seconds: float) -> bool:
        """A request that is never answered must not keep an expired holder in office."""
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                return await self.try_once()
        except TimeoutError:
            log.warning("lease", error="the API server did not answer in time")
            return False

    async def release(self) -> None:
        """Releases the Lease, so that the next candidate need not wait."""
        if self._held is None:
            return
        try:
            await self._cluster.replace_lease(self._record(self._held, holder=""))
        except (ApiError, UnreachableError) as error:
            log.warning("lease not released", error=str(error))
        self._held = None

    async def try_once(self) -> bool:
        """Returns whether this candidate holds the Lease now; False if the API server fails."""
        try:
            return await self._take_or_renew()
        except (ApiError, UnreachableError) as error:
            log.warning("lease", error=str(error))
            return False

    async def _take_or_renew(self) -> bool:
        began = self._clock()
        taken = await self._taken()
        if taken:
            # Counted from the request: the record may be as old as that when the server has it.
            self._renewed_at = began
        return taken

    async def _taken(self) -> bool:
        live = await self._cluster.get("Lease", self._name, self._namespace)
        if live is None:
            self._held = await self._cluster.create_lease(self._record(None, holder=self._identity))
            return True
        if not self._may_take(live):
            self._held = None
            self.leader_address = (live["metadata"].get("annotations") or {}).get(ADDRESS_ANNOTATION)
            return False
        self._held = await self._cluster.replace_lease(self._record(live, holder=self._identity))
        return True

    def _may_take(self, live: RawObject) -> bool:
        spec = live.get("spec", {})
        holder = spec.get("holderIdentity")
        if holder in (self._identity, "", None):
            return True
        seen = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
        return self._clock() - self._seen_at > self._times.duration

    def _record(self, live: RawObject | None, *, holder: str) -> RawObject:
        """The Lease to write, with the resourceVersion that was read, so that a concurrent change is a conflict."""
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = (live or {}).get("spec", {})
        changed = holder != spec.get("holderIdentity")
        metadata = (live or {}).get("metadata", {"name": self._name, "namespace": self._namespace})
        annotations = {**(metadata.get("annotations") or {}), ADDRESS_ANNOTATION: self._address}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {**metadata, "annotations": annotations},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": int(self._times.duration),
                "acquireTime": moment if changed else spec.get("acquireTime", moment),
                "renewTime": moment,
                "leaseTransitions": spec.get("leaseTransitions", 0) + int(changed),
            },
        }
