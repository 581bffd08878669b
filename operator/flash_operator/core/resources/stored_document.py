"""Documents that the operator keeps for later reconciles: JSON files in one ConfigMap of its own.

They outlive the operator's process, `kubectl get` shows them, and they are garbage-collected with the CR.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.resources.identity import metadata

CONFIG_MAP = "last-known-good"
"""Ends the name of the ConfigMap, `<deployment>-last-known-good`."""


@dataclass(frozen=True)
class StoredDocument:
    """The file `<name>.json`."""

    name: str
    former_names: tuple[str, ...]
    """The file was `<former>.json` in a ConfigMap `<deployment>-<former>` of its own, newest first. Without a current
    file it is read from there: an upgrade keeps its content. Former ones are never written or deleted, so that a
    downgrade still finds them."""

    @property
    def file(self) -> str:
        return f"{self.name}.json"

    def config_map(self, flash: FlashDeployment, text: str) -> RawObject:
        """The ConfigMap with this file alone."""
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(flash, f"{flash.name}-{CONFIG_MAP}"),
            "data": {self.file: text},
        }

    def read(self, observed: Observed) -> str | None:
        """The stored text; None if there is none."""
        places = ((CONFIG_MAP, self.file), *((former, f"{former}.json") for former in self.former_names))
        for suffix, file in places:
            config_map = observed.children.get(("ConfigMap", f"{observed.flash.name}-{suffix}")) or {}
            text: str | None = (config_map.get("data") or {}).get(file)
            if text is not None:
                return text
        return None


def together(config_maps: Sequence[RawObject]) -> tuple[RawObject, ...]:
    """One ConfigMap with the files of all; empty if there are none."""
    data = {file: text for config_map in config_maps for file, text in config_map["data"].items()}
    return ({**config_maps[0], "data": data},) if config_maps else ()
