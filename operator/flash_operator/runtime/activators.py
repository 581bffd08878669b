"""Polls the activators of this release for the requests that wait in them, as it polls gates.

Their addresses are their Service's endpoints, from the API server, so nobody can pose as one. A terminating one is
polled until it is gone, because requests that waited in it a moment ago must still start their deployment.

    what the activators answered    | known of a deployment
    ------------------------------- | ----------------------------------------------------------
    nothing yet, in this process    | nothing, for two minutes
    one answers                     | the sum of what waits in them; it wakes for two minutes after the last one waited
    none has answered for 2 minutes | they are lost: nothing would wake it, so it is kept awake
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
import structlog

from flash_contracts.activation import CONTROL_PORT, ActivatorReport
from flash_contracts.document import BadDocumentError
from flash_operator.core.observed.activator import Waiting
from flash_operator.core.observed.raw import RawObject
from flash_operator.core.scaling.activation import SERVICE_LABEL, SLICE
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.gates import read_bounded
from flash_operator.runtime.keys import FlashKey

log = structlog.get_logger("flash.activators")

ASK_SECONDS = 1.0
ADDRESS_SECONDS = 2.0
"""How often their addresses are read: one small list of the release's namespace."""
TIMEOUT = aiohttp.ClientTimeout(total=2.0)
REPORT_SECONDS = 10.0
"""How long the last report of an activator that does not answer counts."""
WAKE_SECONDS = 120.0
"""How long a deployment wakes after the last request waited for it. KEDA asks every few seconds."""
LOST_SECONDS = 120.0
MOST_BYTES = 1 << 20
HTTP_OK = 200


@dataclass
class _Report:
    """The last answer of one activator."""

    at: float
    waiting: dict[FlashKey, int] = field(default_factory=dict)


class Activators:
    """The activators behind one Service."""

    def __init__(
        self,
        cluster: Cluster,
        session: aiohttp.ClientSession,
        service: tuple[str, str],
        routed: Callable[[], tuple[FlashKey, ...]],
        on_change: Callable[[FlashKey], None] = lambda _: None,
        *,
        port: int = CONTROL_PORT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`service`: namespace and name. `routed` are the deployments that may be at zero; `on_change` is called with
        each of them when the addresses of the ready activators have changed."""
        self._cluster = cluster
        self._session = session
        self._namespace, self._service = service
        self._routed = routed
        self._on_change = on_change
        self._port = port
        self._clock = clock
        self.ready: tuple[str, ...] = ()
        """Addresses of the pods that are ready, sorted."""
        self._all: tuple[str, ...] = ()
        self._tried_at = float("-inf")
        self._reports: dict[str, _Report] = {}
        self._asked_for: dict[FlashKey, float] = {}
        """When a request last waited for a deployment."""
        self._had_replicas: set[FlashKey] = set()
        self._zero_since: dict[FlashKey, float] = {}
        self._answered_at: float | None = None
        self._waiting_since: float | None = None
        """Since when answers are missing."""

    async def run(self) -> None:
        """Polls for ever, but only while a deployment may be at zero."""
        while True:
            await self.step()
            await asyncio.sleep(ASK_SECONDS)

    async def step(self) -> None:
        """Polls them, or forgets their answers if no deployment may be at zero: they would be outdated later."""
        if self._routed():
            await self.look()
            return
        self._answered_at = self._waiting_since = None
        self._tried_at = float("-inf")
        self._reports.clear()

    async def look(self) -> None:
        """Reads their addresses if it is time to, and asks each of them."""
        if self._clock() - self._tried_at >= ADDRESS_SECONDS:
            await self.find()
        reports = await asyncio.gather(*(self._ask(address) for address in self._all))
        now = self._clock()
        for address, report in zip(self._all, reports, strict=True):
            if report is not None:
                self._take(address, report, now)
        self._forget_old(now)

    async def find(self) -> None:
        """Reads the addresses of the activators' pods. Keeps the former ones if that fails."""
        self._tried_at = self._clock()
        try:
            found = await self._cluster.list(SLICE, self._namespace, selector={SERVICE_LABEL: self._service})
        except (ApiError, UnreachableError) as error:
            log.warning("activators cannot be listed", error=str(error))
            return
        self._all, ready = addresses_of(found)
        if ready != self.ready:
            log.info("activators", ready=list(ready))
            self.ready = ready
            for key in self._routed():
                self._on_change(key)

    async def addresses(self) -> tuple[str, ...]:
        """Those of the ready ones, read from the API server if they were not yet."""
        if self._tried_at == float("-inf"):
            await self.find()
        return self.ready

    def waiting(self, key: FlashKey) -> Waiting | None:
        """The requests that wait for a deployment, from the last answers; None if unknown. No I/O."""
        now = self._clock()
        asked_for = self._asked_for.get(key, float("-inf"))
        recent = now - asked_for < WAKE_SECONDS and asked_for > self._zero_since.get(key, float("-inf"))
        since = self._answered_at if self._answered_at is not None else self._waiting_since
        if since is not None and now - since >= LOST_SECONDS:
            return Waiting(lost=True)
        if self._answered_at is None:
            return None
        requests = sum(report.waiting.get(key, 0) for report in self._reports.values())
        return Waiting(requests, recent)

    def note(self, key: FlashKey, wanted: int) -> None:
        """Records how many replicas the deployment wants now.

        Requests that started it last time must not start it again when it has just gone to zero.
        """
        if wanted:
            self._had_replicas.add(key)
        elif key in self._had_replicas:
            self._had_replicas.discard(key)
            self._zero_since[key] = self._clock()

    def forget(self, key: FlashKey) -> None:
        """The deployment is gone, or another operator's."""
        self._had_replicas.discard(key)
        self._zero_since.pop(key, None)
        self._asked_for.pop(key, None)

    def _take(self, address: str, report: ActivatorReport, now: float) -> None:
        self._answered_at = now
        waiting: dict[FlashKey, int] = {}
        routed = set(self._routed())
        for held in report.held:
            key = FlashKey(held.namespace, held.name)
            if key not in routed:
                continue
            waiting[key] = max(held.waiting, 0)
            asked_at = now if held.waiting > 0 else now - max(held.last_seconds, 0.0)
            self._asked_for[key] = max(asked_at, self._asked_for.get(key, float("-inf")))
        self._reports[address] = _Report(now, waiting)

    def _forget_old(self, now: float) -> None:
        if self._waiting_since is None:
            self._waiting_since = now
        self._reports = {one: known for one, known in self._reports.items() if now - known.at < REPORT_SECONDS}
        self._asked_for = {key: at for key, at in self._asked_for.items() if now - at < WAKE_SECONDS}

    async def _ask(self, address: str) -> ActivatorReport | None:
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{self._port}/held"
        try:
            async with self._session.get(url, timeout=TIMEOUT, allow_redirects=False) as answer:
                body = await read_bounded(answer.content, MOST_BYTES)
                return ActivatorReport.parse_text(body) if body and answer.status == HTTP_OK else None
        except (aiohttp.ClientError, TimeoutError, OSError, BadDocumentError) as error:
            log.debug("an activator does not answer", address=address, error=type(error).__name__)
            return None


def addresses_of(slices: list[RawObject]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All addresses in these EndpointSlices, and those of ready pods, sorted. One that ends is not ready."""
    endpoints = [
        (address, (endpoint.get("conditions") or {}).get("ready") is not False)
        for one in slices
        for endpoint in one.get("endpoints") or []
        for address in endpoint.get("addresses") or []
    ]
    return tuple(sorted({one for one, _ in endpoints})), tuple(sorted({one for one, ready in endpoints if ready}))
