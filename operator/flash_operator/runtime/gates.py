"""Polls the gates of all pods in the background, and enqueues a deployment when a result has changed.

A gate that does not answer changes the status only, never a replica. A reconcile takes the last answer, and waits for a
moment for a newer one. It does not wait for a gate that has not answered before, was silent last time, or has already
been asked for longer than that. So the pods of one tenant cannot keep the workers from the pods of another.
"""

import asyncio
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import aiohttp

from flash_contracts.gate_result import GateResult, RequestLoad
from flash_operator.core.observed.known_load import KnownLoad
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.deployment import GATE_PORT
from flash_operator.runtime.keys import FlashKey

TIMEOUT = aiohttp.ClientTimeout(total=3.0)
PATIENCE_SECONDS = 0.1
"""How long a reconcile waits. A gate answers in milliseconds, from a copy of its last verdict."""
FRESH_SECONDS = 0.5
"""An answer of that age is not asked for again by a reconcile."""
SILENT_SECONDS = 30.0
"""A gate that lets requests time out is asked half as often each time, down to this."""
MOST_DOUBLINGS = 4
MOST_REQUESTS = 64
MOST_SILENT_REQUESTS = 16
"""Requests at a time to gates that answered last time, and to those that did not: the latter take seconds each."""
MOST_BYTES = 1 << 20
"""A result with all its evidence takes less than a tenth of it."""
HTTP_OK = 200


SOME_LOAD = RequestLoad(0, 0)


@dataclass
class _Gate:
    """One gate and its last result."""

    key: FlashKey
    address: str
    request: asyncio.Task[None] | None = None
    last: GateResult | None = None
    load: RequestLoad | None = None
    """The last one that it reported, even if it has not answered since."""
    load_at: float = float("-inf")
    asked_at: float = float("-inf")
    answered_at: float = float("-inf")
    """By the loop's clock."""
    every: float | None = None
    """Seconds between two requests; None if nobody wants to know."""
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)
    silent: int = 0
    """Requests in a row that timed out. One that is refused at once costs nothing: its gate is about to start."""

    def is_worth_waiting_for(self, now: float) -> bool:
        return self.last is not None and not self.silent and now - self.asked_at < PATIENCE_SECONDS

    def pause(self, every: float) -> float:
        """Seconds until the next request; the jitter spreads them."""
        doublings = min(max(self.silent - 1, 0), MOST_DOUBLINGS)
        doubled: float = min(every * 2**doublings, max(every, SILENT_SECONDS))
        return doubled * random.uniform(0.9, 1.1)  # noqa: S311 - jitter

    def end(self) -> None:
        for task in (self.request, self.timer):
            if task is not None:
                task.cancel()


class Gates:
    """Reads gates at their pods' addresses, over connections that are kept."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        port: int = GATE_PORT,
        on_change: Callable[[FlashKey], None] = lambda _: None,
        on_look: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_change` is called with the deployment of a gate whose result has changed, `on_look` with what came of
        each request: answered, timeout or failed."""
        self._session = session
        self._port = port
        self._on_change = on_change
        self._on_look = on_look
        self._gates: dict[str, _Gate] = {}
        """By pod uid."""
        self._by_key: dict[FlashKey, set[str]] = {}
        self._answering = asyncio.Semaphore(MOST_REQUESTS)
        self._silent = asyncio.Semaphore(MOST_SILENT_REQUESTS)

    async def results(self, key: FlashKey, pods: Iterable[RawObject]) -> dict[str, GateResult]:
        """Results by pod uid, for those pods of a deployment whose gate has answered, or has let a request time out.

        Pods whose gate has not started, and those of earlier calls that are missing now, are not asked any more.
        """
        asked = self._tracked(key, [pod for pod in pods if _gate_was_started(pod)])
        now = asyncio.get_running_loop().time()
        requests = {uid: self._ask(uid) for uid, gate in asked.items() if gate.answered_at < now - FRESH_SECONDS}
        awaited = [request for uid, request in requests.items() if asked[uid].is_worth_waiting_for(now)]
        if awaited:
            await asyncio.wait(awaited, timeout=PATIENCE_SECONDS)
        return {uid: gate.last for uid, gate in asked.items() if gate.last is not None}

    def loads(self, key: FlashKey) -> dict[str, KnownLoad]:
        """What the gates last reported about the requests on their engines, by pod uid. Sends no request."""
        now = asyncio.get_running_loop().time()
        gates = {uid: self._gates[uid] for uid in self._by_key.get(key, ())}
        return {uid: KnownLoad(gate.load, now - gate.load_at) for uid, gate in gates.items() if gate.load is not None}

    def silent(self, key: FlashKey) -> int:
        """How many of the deployment's gates did not answer when they were asked last."""
        last = [self._gates[uid].last for uid in self._by_key.get(key, ())]
        return sum(result is not None and not result.reached for result in last)

    def poll(self, key: FlashKey, seconds: float | None) -> None:
        """Asks the deployment's gates about every so many seconds from now on; None for no more."""
        for uid in self._by_key.get(key, ()):
            gate = self._gates[uid]
            if gate.every != seconds:
                gate.every = seconds
                self._schedule(uid, gate)

    def forget(self, key: FlashKey) -> None:
        """The deployment is gone."""
        self._tracked(key, [])

    async def close(self) -> None:
        """Ends the requests that are under way. Call it before the session is closed."""
        requests = [gate.request for gate in self._gates.values() if gate.request is not None]
        for gate in self._gates.values():
            gate.end()
        await asyncio.gather(*requests, return_exceptions=True)

    def _tracked(self, key: FlashKey, pods: list[RawObject]) -> dict[str, _Gate]:
        """The gates of these pods, and no others of this deployment."""
        addresses = {pod["metadata"]["uid"]: pod["status"]["podIP"] for pod in pods}
        for uid in self._by_key.get(key, set()) - addresses.keys():
            self._gates.pop(uid).end()
        for uid, address in addresses.items():
            gate = self._gates.setdefault(uid, _Gate(key, address))
            gate.address = address
        if addresses:
            self._by_key[key] = set(addresses)
        else:
            self._by_key.pop(key, None)
        return {uid: self._gates[uid] for uid in addresses}

    def _schedule(self, uid: str, gate: _Gate) -> None:
        if gate.timer is not None:
            gate.timer.cancel()
        loop = asyncio.get_running_loop()
        gate.timer = None if gate.every is None else loop.call_later(gate.pause(gate.every), self._ask, uid)

    def _ask(self, uid: str) -> "asyncio.Task[None]":
        """The request that is under way, or a new one. There is one at a time."""
        gate = self._gates[uid]
        if gate.request is None or gate.request.done():
            gate.asked_at = asyncio.get_running_loop().time()
            gate.request = asyncio.create_task(self._update(uid, gate))
        return gate.request

    async def _update(self, uid: str, gate: _Gate) -> None:
        async with self._silent if gate.silent else self._answering:
            try:
                result, gate.silent = await self._result(gate.address), 0
                self._on_look("answered" if result.reached else "failed")
            except TimeoutError:
                result, gate.silent = GateResult.unreachable("no answer in time"), gate.silent + 1
                self._on_look("timeout")
        before, gate.last = gate.last, result
        gate.answered_at = asyncio.get_running_loop().time()
        if result.load is not None:
            gate.load, gate.load_at = result.load, gate.answered_at
        self._schedule(uid, gate)
        if before is None or _lasting(before) != _lasting(result):
            self._on_change(gate.key)

    async def _result(self, address: str) -> GateResult:
        """Raises TimeoutError."""
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{self._port}/result"
        try:
            # A tenant's pod answers: a redirect would make the operator ask any address for it.
            async with self._session.get(url, timeout=TIMEOUT, allow_redirects=False) as answer:
                if answer.status != HTTP_OK:
                    return GateResult.unreachable(f"it answers with status {answer.status}")
                return _result_of(await read_bounded(answer.content, MOST_BYTES))
        except TimeoutError:  # also one of aiohttp's client errors
            raise
        except (aiohttp.ClientError, ValueError) as error:
            return GateResult.unreachable(type(error).__name__)


async def read_bounded(content: aiohttp.StreamReader, most: int) -> bytes | None:
    """The whole body, or None if it is too large; never holds more than `most` bytes and one chunk."""
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)


def _result_of(body: bytes | None) -> GateResult:
    """Raises ValueError for what is not JSON."""
    if body is None:
        return GateResult.unreachable(f"its answer is larger than {MOST_BYTES >> 20} MiB")
    try:
        return GateResult.of(json.loads(body))
    except RecursionError as error:
        raise ValueError("its answer is nested too deeply") from error


def _gate_was_started(pod: RawObject) -> bool:
    """Before that, no process listens, and a request would only time out."""
    status = pod.get("status", {})
    containers = status.get("initContainerStatuses", [])
    running = any(c.get("name") == "gate" and "running" in c.get("state", {}) for c in containers)
    return running and bool(status.get("podIP")) and "deletionTimestamp" not in pod["metadata"]


def _lasting(result: GateResult) -> GateResult:
    """Without figures that change at every reading of a serving replica. Whether its requests are known stays."""
    serving = replace(result.serving, decode_tokens_per_second=None, bad_windows=0, still_seconds=0.0)
    return replace(result, serving=serving, load=None if result.load is None else SOME_LOAD)
