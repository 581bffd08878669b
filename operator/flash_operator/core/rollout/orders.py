"""Orders of a user about the rollout: to leave a template that the engines run, or to try a rejected one again.

    order                                     | the Deployment gets               | answer
    ----------------------------------------- | --------------------------------- | -----------------------------------
    roll back R, which rolls out              | the last known good template      | Done
    roll back R, which all replicas run       | the one that was good before it   | Done
    roll back R, and nothing was good before  | R                                 | Refused
    roll back R, while the rollout is paused  | unchanged                         | Waiting
    roll back R, which does not run           | unchanged                         | Done
    retry at T, R was rejected before T       | R                                 | Done
    retry at T, R was rejected at the retry T | the last known good template      | Done: it was tried once

A rollback is a rejection: it is kept in the status like that of a template that was too slow, and holds when the
annotation has gone. A rejection names the retry that it followed, so an order that GitOps writes again and again is
carried out once. Of a rollback and a retry, the later one counts.
"""

from typing import Literal

from flash_contracts.orders import DeploymentOrders, RollbackOrder
from flash_operator.api.status import OrderStatus
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.raw import RawObject

_RETRY = "@"


def with_retry(attempt: str, orders: DeploymentOrders) -> str:
    """The name of an attempt, of which each retry is another one."""
    return f"{attempt}{_RETRY}{orders.retry}" if orders.retry else attempt


def holds(rejected: str | None, attempt: str) -> bool:
    """Whether a rejection is about this attempt: no retry was ordered after the rejected one."""
    if rejected is None:
        return False
    (rejected_attempt, _, rejected_retry), (same, _, retry) = rejected.partition(_RETRY), attempt.partition(_RETRY)
    return rejected_attempt == same and retry <= rejected_retry


def is_retried(flash: FlashDeployment, live_status: RawObject) -> bool:
    """Whether something was rejected before the user ordered a retry."""
    retry = flash.orders.retry
    found = ((live_status.get(part) or {}).get("rejected") for part in ("rollout", "update"))
    return retry is not None and any(rejected.partition(_RETRY)[2] < retry for rejected in found if rejected)


def ordered_rollback(flash: FlashDeployment, revision: str) -> RollbackOrder | None:
    """The order to leave this revision. While the rollout is paused, it waits."""
    order = flash.orders.rollback
    leaves = order is not None and order.revision == revision and flash.spec.rollout.state != "Paused"
    return order if leaves else None


def order_statuses(flash: FlashDeployment, running: str, *, held: bool) -> list[OrderStatus]:
    """The answers. `running`: the revision that the Deployment gets. `held`: the operator leaves it unchanged."""
    orders = flash.orders
    answers = []
    if orders.rollback_text is not None:
        answers.append(_rollback_status(flash, running, held=held))
    if orders.retry_text is not None:
        answers.append(_retry_status(orders))
    return answers


def _rollback_status(flash: FlashDeployment, running: str, *, held: bool) -> OrderStatus:
    text = flash.orders.rollback_text or ""
    written, order = RollbackOrder.parse(text), flash.orders.rollback
    if written is None:
        return _answer("Rollback", text, "Refused", "it is not REVISION@TIME, as in 0123456789@2026-11-28T19:30:00Z")
    if order is None:
        return _answer("Rollback", text, "Done", "a retry was ordered after it")
    if order.revision != running:
        return _answer("Rollback", text, "Done", f"the engines are not started with {order.revision}")
    if flash.spec.rollout.state == "Paused":
        return _answer("Rollback", text, "Waiting", "spec.rollout.state is Paused")
    if held:
        return _answer("Rollback", text, "Waiting", "replicas are left unchanged, see the condition Ready")
    return _answer("Rollback", text, "Refused", f"no template is known that was good before {order.revision}")


def _retry_status(orders: DeploymentOrders) -> OrderStatus:
    text = orders.retry_text or ""
    if orders.retry is None:
        return _answer("Retry", text, "Refused", "it is not a time, as in 2026-11-28T19:30:00Z")
    return _answer("Retry", text, "Done", "what was rejected before is tried once more")


def _answer(
    order: Literal["Rollback", "Retry"], text: str, state: Literal["Done", "Waiting", "Refused"], message: str
) -> OrderStatus:
    return OrderStatus(order=order, value=text, state=state, message=message)
