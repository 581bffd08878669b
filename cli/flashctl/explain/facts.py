"""What an explanation is made of."""

from dataclasses import dataclass, field
from datetime import datetime

from flash_operator.core.observed.snapshot import RawObject


@dataclass(frozen=True)
class Facts:
    """Raw objects of one deployment, as far as the user may read them."""

    flash: RawObject
    now: datetime
    """The API server's time."""
    pods: tuple[RawObject, ...] = ()
    """Its engine pods."""
    nodes: tuple[RawObject, ...] = ()
    events: tuple[RawObject, ...] = ()
    """Of events.k8s.io, about the deployment and its pods."""
    leases: tuple[RawObject, ...] | str = "not asked for"
    """Those of its operator, or why they cannot be read."""
    unread: tuple[str, ...] = ()
    """What could not be read, and why."""
    conditions: dict[str, RawObject] = field(init=False)
    """The conditions in status by type."""

    def __post_init__(self) -> None:
        known = self.status.get("conditions") or []
        object.__setattr__(self, "conditions", {str(one.get("type")): one for one in known if isinstance(one, dict)})

    @property
    def name(self) -> str:
        return str(self.flash["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.flash["metadata"].get("namespace", ""))

    @property
    def spec(self) -> RawObject:
        return self.flash.get("spec") or {}

    @property
    def status(self) -> RawObject:
        return self.flash.get("status") or {}
