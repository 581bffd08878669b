"""What is known of the activator: the process that holds requests of deployments that are at zero."""

from dataclasses import dataclass

from flash_operator.api.v1alpha1 import FlashDeployment


@dataclass(frozen=True)
class Waiting:
    """The requests for one deployment that wait in the activators."""

    requests: int = 0
    recent: bool = False
    """One waited a moment ago: a wake-up is not forgotten with the activator that held the request."""
    lost: bool = False
    """No activator has answered for minutes, so nothing would wake the deployment."""

    @property
    def wakes(self) -> bool:
        return self.requests > 0 or self.recent or self.lost


@dataclass(frozen=True)
class ActivatorView:
    """The activators of this release, as one deployment sees them. Only where the chart installs them."""

    addresses: tuple[str, ...] = ()
    """Addresses of the pods that are ready, sorted."""
    port: int | None = None
    """The deployment's port on each of them; None if all are taken."""
    waiting: Waiting | None = None
    """None while no activator was asked yet."""


def asks_for_zero(flash: FlashDeployment) -> bool:
    return flash.spec.scaling is not None and flash.spec.scaling.min_replicas == 0
