"""`spec.model`: the checkpoint, where it comes from, and where it is kept."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from flash_operator.api import ApiModel

# Starts with a letter or digit: vLLM would read a name that starts with a dash as an argument.
ServedName = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$")
]


DEFAULT_NODE_PATH = "/var/lib/deepseek-flash/models"


class CacheSpec(ApiModel):
    """Where a downloaded model is kept (docs/model-delivery.md)."""

    type: Literal["Pod", "Node", "Claim"] = "Pod"
    """Pod: in an emptyDir, deleted with the pod. Node: in a folder on the node, shared by all its pods. Claim: on a
    PersistentVolumeClaim, shared by all pods that mount it."""
    path: Annotated[str, Field(max_length=256, pattern=r"^(/[A-Za-z0-9._-]+)+$")] | None = None
    """Folder on the node, with type Node; /var/lib/deepseek-flash/models if unset. User 65532 must be able to write to
    it, so create it on every node first."""
    claim_name: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")] | None = None
    """Name of the PersistentVolumeClaim, with type Claim. Every node that may run a replica must be able to mount
    it."""
    max_gibibytes: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Upper bound for all models in the cache together, in GiB. When a new model needs space, unused ones are deleted,
    oldest first. If unset, only the volume's size limits the cache."""

    @property
    def name(self) -> str:
        """Identifies the cache among those of its type: the claim's name or the node's folder."""
        return self.claim_name or "" if self.type == "Claim" else self.path or DEFAULT_NODE_PATH


class RestoreMtpSpec(ApiModel):
    """Restores the MTP head of a stripped checkpoint before it is served, by a Job on one GPU, once per folder.

    The restored checkpoint is written next to the model's folder on the same claim. It shares the stripped checkpoint's
    files instead of copying them.
    """

    state: Literal["Enabled", "Disabled"] = "Enabled"
    """Disabled serves the checkpoint as it is."""
    source: Annotated[str, Field(max_length=512, pattern=r"^(hf|pvc)://[A-Za-z0-9][A-Za-z0-9._:/@-]*$")]
    """DeepSeek's official checkpoint, whose MTP head has FP4 experts: pvc://CLAIM/FOLDER or hf://OWNER/NAME@COMMIT.
    Immutable."""
    capture: Annotated[str, Field(max_length=512, pattern=r"^pvc://[A-Za-z0-9][A-Za-z0-9._/-]*$")] | None = None
    """Calibration data for GPTQ (docs/quantiser.md): pvc://CLAIM/FOLDER. If unset, matrices are rounded to nearest."""
    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")] | None = None
    """Image of the quantiser. The operator's default if unset."""


class ModelSpec(ApiModel):
    """The checkpoint, and the names it is served under."""

    source: Annotated[str, Field(max_length=512, pattern=r"^(hf|oci|pvc)://[A-Za-z0-9][A-Za-z0-9._:/@-]*$")]
    """Location of the weights: pvc://CLAIM/FOLDER, oci://IMAGE or hf://OWNER/NAME. Immutable."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Commit, tag or branch of an hf:// source; the hub's default branch if unset. Use a commit: a branch can move
    between the start of two replicas."""
    oci_delivery: Literal["Auto", "ImageVolume", "Fetch"] = "Auto"
    """How an oci:// model gets into the pod. ImageVolume: the kubelet mounts the image. Fetch: an init container pulls
    and unpacks it. Auto: ImageVolume where the cluster supports it, else Fetch."""
    cache: CacheSpec | None = None
    """Where a downloaded model (hf://, or oci:// with Fetch) is kept. In the pod if unset."""
    credentials_secret: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")] | None = None
    """Secret with the credentials for the source. For hf://, also of restoreMtp: the hub's token under the key `token`.
    For oci://: a Secret of type kubernetes.io/dockerconfigjson. Only the container that downloads can read it."""
    hub_endpoint: (
        Annotated[str, Field(max_length=512, pattern=r"^https?://[A-Za-z0-9.:_\[\]-]+(/[A-Za-z0-9._~/-]*)?$")] | None
    ) = None
    """Base URL of the hub for hf:// sources, also of restoreMtp, such as a mirror. The public Hugging Face Hub if
    unset."""
    served_names: Annotated[list[ServedName], Field(min_length=1, max_length=8)] = ["deepseek-v4-flash"]
    """Model names that clients may request. The gate uses the first one."""
    restore_mtp: RestoreMtpSpec | None = None
    """Restores the MTP head that most quantised checkpoints lack. Needs a pvc:// source with a folder."""
