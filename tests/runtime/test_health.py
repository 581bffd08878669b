"""/healthz: when the kubelet must restart an operator that runs but makes no progress."""

import aiohttp
import pytest

from flash_operator.runtime.health import STALLED_SECONDS, Health
from flash_operator.runtime.metrics import Metrics
from ports import a_free_port

CASES = {
    "a leader that works": (True, 0.0, 0.0, 200),
    "a leader whose keys wait, but not for long": (True, STALLED_SECONDS - 1, 0.0, 200),
    "a leader whose workers take no key": (True, STALLED_SECONDS + 1, 0.0, 503),
    "a leader that does not resync": (True, 0.0, 10_000.0, 503),
    "a standby, which has no work": (False, STALLED_SECONDS + 1, 10_000.0, 200),
}


@pytest.mark.parametrize(("leading", "waited", "resync_age", "status"), CASES.values(), ids=CASES.keys())
async def test_the_operator_is_alive_where(leading: bool, waited: float, resync_age: float, status: int) -> None:  # noqa: FBT001
    metrics, port = Metrics(), a_free_port()
    metrics.last_resync -= resync_age
    health = Health(metrics, 300.0, lambda: None, lambda: waited)
    health.leading = leading
    await health.start(port)
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/healthz") as answer:
            assert answer.status == status
    finally:
        await health.stop()
