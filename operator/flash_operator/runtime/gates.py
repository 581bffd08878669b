"""Reads the results of all pods' gates concurrently, with a short timeout.

A gate that does not answer changes the status only, never a replica.
"""

import asyncio
import json
from collections.abc import Iterable

import aiohttp

from flash_contracts.gate_result import GateResult
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.deployment import GATE_PORT

TIMEOUT = aiohttp.ClientTimeout(total=3.0)
MOST_BYTES = 1 << 20
"""A result with all its evidence takes less than a tenth of it."""
HTTP_OK = 200


class Gates:
    """Reads gates at their pods' addresses."""

    def __init__(self, session: aiohttp.ClientSession, port: int = GATE_PORT) -> None:
        self._session = session
        self._port = port

    async def results(self, pods: Iterable[RawObject]) -> dict[str, GateResult]:
        """Results by pod uid, for pods whose gate has started."""
        asked = [pod for pod in pods if _gate_was_started(pod)]
        answers = await asyncio.gather(*(self._result(pod["status"]["podIP"]) for pod in asked))
        return {pod["metadata"]["uid"]: answer for pod, answer in zip(asked, answers, strict=True)}

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
