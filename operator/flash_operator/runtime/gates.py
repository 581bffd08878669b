"""Reads the results of all pods' gates concurrently, and never lets a silent gate hold up a reconcile.

A gate that does not answer changes the status only, never a replica. Each request runs on its own: a reconcile waits
for it for a moment, and takes what was known before if it is not there by then. For a gate that was silent last time it
does not wait at all. So the pods of one tenant cannot keep the workers from the pods of another.
"""

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp

from flash_contracts.gate_result import GateResult
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.deployment import GATE_PORT

TIMEOUT = aiohttp.ClientTimeout(total=3.0)
PATIENCE_SECONDS = 0.2
"""How long a reconcile waits. A gate answers in milliseconds, from a copy of its last verdict."""
FORGET_SECONDS = 600.0
"""A pod that nobody has asked about for so long is gone."""
MOST_BYTES = 1 << 20
"""A result with all its evidence takes less than a tenth of it."""
HTTP_OK = 200


@dataclass
class _Gate:
    """What is known of one gate."""

    request: asyncio.Task[GateResult]
    asked_at: float
    last: GateResult | None = None

    @property
    def was_silent(self) -> bool:
        return self.last is not None and not self.last.reached

    def answer(self) -> GateResult:
        """The newest answer. A request that is under way still counts as answered as before."""
        if self.request.done():
            self.last = self.request.result()
        return self.last or GateResult.unreachable("no answer yet")


class Gates:
    """Reads gates at their pods' addresses."""

    def __init__(self, session: aiohttp.ClientSession, port: int = GATE_PORT) -> None:
        self._session = session
        self._port = port
        self._gates: dict[str, _Gate] = {}
        """By pod uid."""

    async def results(self, pods: Iterable[RawObject]) -> dict[str, GateResult]:
        """Results by pod uid, for pods whose gate has started."""
        self._forget_old()
        asked = {pod["metadata"]["uid"]: self._ask(pod) for pod in pods if _gate_was_started(pod)}
        awaited = [gate.request for gate in asked.values() if not gate.was_silent]
        if awaited:
            await asyncio.wait(awaited, timeout=PATIENCE_SECONDS)
        return {uid: gate.answer() for uid, gate in asked.items()}

    async def close(self) -> None:
        """Ends the requests that are under way. Call it before the session is closed."""
        requests = [gate.request for gate in self._gates.values()]
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)

    def _ask(self, pod: RawObject) -> _Gate:
        """The pod's gate, with a request that is under way. There is one request at a time."""
        uid, now = pod["metadata"]["uid"], time.monotonic()
        gate = self._gates.get(uid)
        if gate is None or gate.request.done():
            last = gate.answer() if gate else None
            request = asyncio.create_task(self._result(pod["status"]["podIP"]))
            gate = self._gates[uid] = _Gate(request, now, last)
        gate.asked_at = now
        return gate

    def _forget_old(self) -> None:
        oldest = time.monotonic() - FORGET_SECONDS
        for uid in [uid for uid, gate in self._gates.items() if gate.asked_at < oldest and gate.request.done()]:
            del self._gates[uid]

    async def _result(self, address: str) -> GateResult:
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{self._port}/result"
        try:
            # A tenant's pod answers: a redirect would make the operator ask any address for it.
            async with self._session.get(url, timeout=TIMEOUT, allow_redirects=False) as answer:
                if answer.status != HTTP_OK:
                    return GateResult.unreachable(f"it answers with status {answer.status}")
                return _result_of(await _read_bounded(answer.content))
        except TimeoutError:
            return GateResult.unreachable("no answer in time")
        except (aiohttp.ClientError, ValueError) as error:
            return GateResult.unreachable(type(error).__name__)


async def _read_bounded(content: aiohttp.StreamReader) -> bytes | None:
    """The whole body, or None if it is too large; never holds more than MOST_BYTES and one chunk."""
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)


def _result_of(body: bytes | None) -> GateResult:
    """Raises ValueError for what is not JSON."""
    if body is None:
        return GateResult.unreachable(f"its answer is larger than {MOST_BYTES >> 20} MiB")
    return GateResult.of(json.loads(body))


def _gate_was_started(pod: RawObject) -> bool:
    """Before that nothing listens; asking would only wait for a time-out."""
    status = pod.get("status", {})
    containers = status.get("initContainerStatuses", [])
    running = any(c.get("name") == "gate" and "running" in c.get("state", {}) for c in containers)
    return running and bool(status.get("podIP")) and "deletionTimestamp" not in pod["metadata"]
