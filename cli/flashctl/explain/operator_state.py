"""Whether the operator lives, by its Lease. The status of a deployment is only as fresh as that."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from flash_operator.core.observed.snapshot import RawObject
from flashctl.age import age_of, moment_of
from flashctl.output import Document

LEASE = "flash-operator"
OVERDUE_SECONDS = 60.0
"""It is renewed every 2 s. A clock of the operator's node may be a little behind the API server's."""


class OperatorState(Document):
    """The operator that is responsible for a deployment."""

    state: Literal["Leads", "Down", "Absent", "Unknown"]
    message: str
    lease: str | None = None
    """NAMESPACE/NAME."""
    holder: str | None = None
    renewed: str | None = None

    @property
    def is_away(self) -> bool:
        return self.state in ("Down", "Absent")


def lease_name(operator_class: str = "") -> str:
    """The Lease of the operator of this class (`spec.operatorClass`)."""
    return f"{LEASE}-{operator_class}" if operator_class else LEASE


def operator_state(leases: Sequence[RawObject] | str, now: datetime) -> OperatorState:
    """`leases` are those of its name in all namespaces, or why they cannot be read. `now` is the API server's time."""
    if isinstance(leases, str):
        return OperatorState(state="Unknown", message=f"whether the operator runs is unknown: {leases}")
    if not leases:
        return OperatorState(
            state="Absent",
            message="no operator has ever led here: it is not installed, or has another operatorClass; install the "
            "chart",
        )
    newest = max(leases, key=lambda lease: str((lease.get("spec") or {}).get("renewTime") or ""))
    return _of(newest, now)


def _of(lease: RawObject, now: datetime) -> OperatorState:
    spec = lease.get("spec") or {}
    namespace = lease["metadata"].get("namespace", "")
    name = f"{namespace}/{lease['metadata']['name']}"
    renewed, holder = spec.get("renewTime"), spec.get("holderIdentity")
    moment = moment_of(renewed)
    known = {"lease": name, "holder": holder or None, "renewed": renewed}
    if holder and moment and (now - moment).total_seconds() < OVERDUE_SECONDS:
        return OperatorState(state="Leads", message=f"{holder} leads", **known)
    since = f"{age_of(renewed, now)} ago" if moment else "at an unknown time"
    why = f"its Lease {name} was last renewed {since}" if holder else f"nobody has held its Lease {name} since {since}"
    look = f"kubectl get pods -n {namespace} -l app.kubernetes.io/component=operator"
    return OperatorState(state="Down", message=f"the operator is down: {why}; look at it: {look}", **known)
