"""Where the weights come from: `pvc://claim/folder`, `oci://image`, `hf://owner/name`."""

from dataclasses import dataclass

from flash_operator.core.observed import RawObject

MODEL_PATH = "/models"
HUB_CACHE_PATH = "/var/cache/flash/hub"


@dataclass(frozen=True)
class ModelSource:
    """A parsed source URI. The schema has already refused what does not match one of the three forms."""

    scheme: str
    location: str

    @classmethod
    def parse(cls, uri: str) -> "ModelSource":
        scheme, _, location = uri.partition("://")
        return cls(scheme=scheme, location=location)

    @property
    def argument(self) -> str:
        """What vLLM is told to load."""
        if self.scheme == "hf":
            return self.location
        folder = self.location.partition("/")[2] if self.scheme == "pvc" else ""
        return f"{MODEL_PATH}/{folder}".rstrip("/")

    @property
    def volumes(self) -> list[RawObject]:
        if self.scheme == "pvc":
            claim = {"claimName": self.location.partition("/")[0], "readOnly": True}
            return [{"name": "model", "persistentVolumeClaim": claim}]
        if self.scheme == "oci":
            return [{"name": "model", "image": {"reference": self.location, "pullPolicy": "IfNotPresent"}}]
        return []

    @property
    def mounts(self) -> list[RawObject]:
        return [{"name": "model", "mountPath": MODEL_PATH, "readOnly": True}] if self.volumes else []

    @property
    def environment(self) -> list[RawObject]:
        """A model that is already in the pod must never make the engine ask a hub for anything."""
        if self.scheme == "hf":
            return [{"name": "HF_HOME", "value": HUB_CACHE_PATH}]
        return [{"name": "HF_HUB_OFFLINE", "value": "1"}]
