"""Documents that the operator keeps for later reconciles: JSON in a ConfigMap of its own.

They outlive the operator's process, `kubectl get` shows them, and they are garbage-collected with the CR.
"""

from dataclasses import dataclass

from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.resources.identity import metadata


@dataclass(frozen=True)
class StoredDocument:
    """The ConfigMap `<deployment>-<name>` with the file `<name>.json`."""

    name: str
    former_name: str
    """The name before it was renamed. Without a ConfigMap of the current name, the former one is read: an upgrade keeps
    its content. It is never written or deleted, so that a downgrade still finds it."""

    def config_map_name(self, flash: FlashDeployment) -> str:
        return f"{flash.name}-{self.name}"

    def config_map(self, flash: FlashDeployment, text: str) -> RawObject:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(flash, self.config_map_name(flash)),
            "data": {f"{self.name}.json": text},
        }

    def read(self, observed: Observed) -> str | None:
        """The stored text; None if there is none."""
        for name in (self.name, self.former_name):
            config_map = observed.children.get(("ConfigMap", f"{observed.flash.name}-{name}"))
            if config_map is not None:
                text: str | None = (config_map.get("data") or {}).get(f"{name}.json")
                return text
        return None
