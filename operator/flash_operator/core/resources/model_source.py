"""The source of the weights: `pvc://claim/folder`, `oci://image` or `hf://owner/name`.

A claim is mounted directly, and so is an image if the cluster supports it (`image_volume`). Any other model is
downloaded by an init container (`fetch_container`) into a cache. Its commit or digest is known only then, so the engine
loads it through a link in the run folder.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from flash_operator.api.model_spec import CacheSpec, ModelSpec
from flash_operator.core.observed.snapshot import RawObject

MODEL_PATH = "/models"
RUN_DIR = "/run/flash"
LINK = f"{RUN_DIR}/model"
"""Created by flash-fetch once the model is complete."""


@dataclass(frozen=True)
class ClaimFolder:
    """A folder on a claim, relative to the claim's root."""

    claim: str
    folder: str

    @classmethod
    def parse(cls, uri: str) -> "ClaimFolder | None":
        """None unless it is `pvc://claim/folder`."""
        scheme, _, location = uri.partition("://")
        claim, _, folder = location.partition("/")
        return cls(claim, folder) if scheme == "pvc" else None


@dataclass(frozen=True)
class ModelSource:
    """The model of a spec, which the schema has validated."""

    spec: ModelSpec

    @cached_property
    def scheme(self) -> str:
        return self.spec.source.partition("://")[0]

    @cached_property
    def location(self) -> str:
        """The location that the engines load: the source, or the restored checkpoint beside it.

        Its name is derived from its inputs: deployments with the same inputs share it, and one with other calibration
        data has another folder, so that a rollout can be rolled back.
        """
        source, restore = self.spec.source.partition("://")[2], self.spec.restore_mtp
        if restore is None or restore.state != "Enabled":
            return source
        made_of = hashlib.sha256(f"{restore.source} {restore.capture or ''}".encode()).hexdigest()[:8]
        return f"{source}-with-mtp-{made_of}"

    @property
    def is_image(self) -> bool:
        return self.scheme == "oci"

    @property
    def is_fetched(self) -> bool:
        return self.scheme == "hf" or (self.is_image and self.spec.oci_delivery == "Fetch")

    @property
    def is_mounted_image(self) -> bool:
        return self.is_image and not self.is_fetched

    @property
    def cache(self) -> CacheSpec:
        return self.spec.cache or CacheSpec()

    @property
    def is_shared(self) -> bool:
        """The cache outlives the pod and is shared with others."""
        return self.is_fetched and self.cache.type != "Pod"

    @property
    def uri(self) -> str:
        return f"{self.scheme}://{self.location}"

    @property
    def argument(self) -> str:
        """vLLM's model argument."""
        if self.is_fetched:
            return LINK
        on_claim = ClaimFolder.parse(self.uri)
        folder = on_claim.folder if on_claim else ""
        return f"{MODEL_PATH}/{folder}".rstrip("/")

    @property
    def volume(self) -> RawObject:
        on_claim = ClaimFolder.parse(self.uri)
        if on_claim:
            return {"name": "model", "persistentVolumeClaim": {"claimName": on_claim.claim, "readOnly": True}}
        if self.is_mounted_image:
            return {"name": "model", "image": {"reference": self.location, "pullPolicy": "IfNotPresent"}}
        return {"name": "model", **self._cache_volume}

    @property
    def _cache_volume(self) -> RawObject:
        if self.cache.type == "Node":
            # The kubelet creates a missing folder, owned by root; flash-fetch then reports how to fix that, while a pod
            # that waits for a volume would not.
            return {"hostPath": {"path": self.cache.name, "type": "DirectoryOrCreate"}}
        if self.cache.type == "Claim":
            return {"persistentVolumeClaim": {"claimName": self.cache.name}}
        return {"emptyDir": {}}

    @property
    def mount(self) -> RawObject:
        """The engine's mount. Writable in a shared cache, for locks and the JIT cache; the weights stay read-only."""
        read_only = {} if self.is_shared else {"readOnly": True}
        return {"name": "model", "mountPath": MODEL_PATH, **read_only}

    @property
    def environment(self) -> list[RawObject]:
        """Variables of the engine. Offline, because its model is in the pod already."""
        made = [{"name": "HF_HUB_OFFLINE", "value": "1"}]
        if self.is_shared:
            made.append({"name": "FLASH_MODEL_CACHE", "value": MODEL_PATH})
            made.append({"name": "FLASH_JIT_DIR", "value": f"{MODEL_PATH}/jit"})
        return made
