"""A request waits for a replica of its deployment."""

import asyncio

from flash_operator.activator.deployments import AVOIDED_SECONDS, Sleeper
from flash_operator.activator.refusal import unavailable


async def endpoint_of(sleeper: Sleeper, deadline: float) -> str:
    """The endpoint of a replica that serves, at once or as soon as there is one. `deadline` is of the loop's clock.

    Raises RefusalError at the deadline, or if the activator stops, or the deployment is gone.
    """
    loop = asyncio.get_running_loop()
    now = loop.time()
    if found := _found(sleeper, now):
        return found
    if sleeper.waking_since is None and not sleeper.route.endpoints:
        sleeper.waking_since = now
    sleeper.waiting += 1
    try:
        return await _next_endpoint(sleeper, deadline)
    finally:
        sleeper.waiting -= 1
        sleeper.waited_at = loop.time()


async def _next_endpoint(sleeper: Sleeper, deadline: float) -> str:
    loop = asyncio.get_running_loop()
    while True:
        changed = sleeper.changed
        soon = loop.time() + AVOIDED_SECONDS if sleeper.avoided else deadline
        try:
            async with asyncio.timeout_at(min(soon, deadline)):
                await changed.wait()
        except TimeoutError:
            if loop.time() >= deadline:
                raise unavailable("model_starting", sleeper.story(loop.time())) from None
        if found := _found(sleeper, loop.time()):
            return found


def _found(sleeper: Sleeper, now: float) -> str | None:
    """Raises RefusalError."""
    if sleeper.ended is not None:
        raise sleeper.ended
    found = sleeper.endpoint(now)
    if found is None and sleeper.stopped is not None:
        sleeper.waited_at = now  # it wakes the deployment all the same
        raise sleeper.stopped
    return found
