"""Orders of a user: annotations that ask the operator or a gate for something once. `kubectl dsf` writes them.

    annotation                     on             value                  asks for
    ------------------------------ -------------- ---------------------- ---------------------------------------------
    deepseekflash.dev/rollback     the deployment REVISION@TIME          the template that was good before REVISION
    deepseekflash.dev/retry        the deployment TIME                   another attempt at what was rejected before
    deepseekflash.dev/quarantine   a pod          ordered@TIME           no requests of users for this replica

TIME is when the order was given, as in 2026-11-28T19:30:00Z. It tells two orders apart and puts them in order, so the
same order is carried out once, however often it is written. It is compared with other orders only, never with a clock.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flash_contracts.names import RETRY_ANNOTATION, ROLLBACK_ANNOTATION

ORDER_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_REVISION = re.compile(r"[0-9a-z]{1,32}")
_ORDERED = "ordered"


@dataclass(frozen=True)
class RollbackOrder:
    """Leave a revision of the pod template, and take no other attempt at it."""

    revision: str
    """The one that is left. Named instead of the one to go back to, so that an old order means nothing once the
    deployment asks for another template."""
    at: str

    @classmethod
    def parse(cls, text: str | None) -> "RollbackOrder | None":
        """None if there is no order, or it is not one."""
        revision, _, at = (text or "").partition("@")
        return cls(revision, at) if _REVISION.fullmatch(revision) and order_time(at) else None

    def __str__(self) -> str:
        return f"{self.revision}@{self.at}"


def order_time(text: str | None) -> str | None:
    """The time of an order; None if there is none, or it is not a time."""
    return text if text and ORDER_TIME.fullmatch(text) else None


def ordered_quarantine(at: str) -> str:
    """The value by which a user takes a replica out of service. The operator's grants never look like it."""
    return f"{_ORDERED}@{at}"


def is_ordered_quarantine(text: str | None) -> bool:
    """Whether a user, and not the operator, took the replica out of service."""
    word, _, at = (text or "").partition("@")
    return word == _ORDERED and order_time(at) is not None


@dataclass(frozen=True)
class DeploymentOrders:
    """The orders that a deployment has, as they were written."""

    retry_text: str | None = None
    rollback_text: str | None = None

    @classmethod
    def of(cls, annotations: Mapping[str, str] | None) -> "DeploymentOrders":
        found = annotations or {}
        return cls(found.get(RETRY_ANNOTATION), found.get(ROLLBACK_ANNOTATION))

    @property
    def retry(self) -> str | None:
        """When the user ordered another attempt; None without a valid order."""
        return order_time(self.retry_text)

    @property
    def rollback(self) -> RollbackOrder | None:
        """The valid order to roll back, unless the user ordered another attempt after it."""
        order = RollbackOrder.parse(self.rollback_text)
        return None if order is None or (self.retry or "") > order.at else order
