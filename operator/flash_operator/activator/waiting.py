"""Waits until a replica of a request's deployment serves."""

import asyncio

from flash_operator.activator.deployments import AVOIDED_SECONDS, RoutedDeployment
from flash_operator.activator.refusal import unavailable


async def endpoint_of(deployment: RoutedDeployment, deadline: float) -> str:
    """The endpoint of a replica that serves, at once or as soon as there is one. `deadline` is of the loop's clock.

    Raises RefusalError at the deadline, or if the activator stops, or the deployment is gone.
    """
    loop = asyncio.get_running_loop()
    now = loop.time()
    if found := _found(deployment, now):
        return found
    if deployment.starting_since is None and not deployment.route.endpoints:
        deployment.starting_since = now
    deployment.waiting += 1
    try:
        return await _next_endpoint(deployment, deadline)
    finally:
        deployment.waiting -= 1
        deployment.waited_at = loop.time()


async def _next_endpoint(deployment: RoutedDeployment, deadline: float) -> str:
    loop = asyncio.get_running_loop()
    while True:
        changed = deployment.changed
        soon = loop.time() + AVOIDED_SECONDS if deployment.avoided else deadline
        try:
            async with asyncio.timeout_at(min(soon, deadline)):
                await changed.wait()
        except TimeoutError:
            if loop.time() >= deadline:
                raise unavailable("model_starting", deployment.explanation(loop.time())) from None
        if found := _found(deployment, loop.time()):
            return found


def _found(deployment: RoutedDeployment, now: float) -> str | None:
    """Raises RefusalError."""
    if deployment.ended is not None:
        raise deployment.ended
    found = deployment.endpoint(now)
    if found is None and deployment.stopped is not None:
        deployment.waited_at = now  # it wakes the deployment all the same
        raise deployment.stopped
    return found
