"""`spec.model`: the checkpoint, where it is from, and where it is kept."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from flash_operator.api.api_model import ApiModel

# Begins with a letter or digit: a name that begins with a dash would be read as an argument of the engine.
ServedName = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$")
]


DEFAULT_NODE_PATH = "/var/lib/deepseek-flash/models"


class CacheSpec(ApiModel):
    """Where a model that is fetched is kept (docs/model-delivery.md)."""

    type: Literal["Pod", "Node", "Claim"] = "Pod"
    """Pod: in the pod, and gone with it. Node: in a folder of the node, for all its pods. Claim: on a volume."""
    path: Annotated[str, Field(max_length=256, pattern=r"^(/[A-Za-z0-9._-]+)+$")] | None = None
    """Folder of the node, writable for user 65532; /var/lib/deepseek-flash/models where absent. With type Node."""
    claim_name: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")] | None = None
    """PersistentVolumeClaim; every node that may run a replica must be able to mount it. With type Claim."""
    max_gibibytes: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Most that all models in it may take. For one that does not fit, those that nobody uses go, oldest first."""

    @property
    def name(self) -> str:
        """What tells it from others of its type."""
        return self.claim_name or "" if self.type == "Claim" else self.path or DEFAULT_NODE_PATH


class RestoreMtpSpec(ApiModel):
    """Give a stripped checkpoint its MTP head back before it is served, by a Job on one GPU, once for a claim's folder.

    What is restored lies beside the model's folder on its claim; the stripped files are shared, not copied.
    """

    state: Literal["Enabled", "Disabled"] = "Enabled"
    """Disabled: the checkpoint is served as it is."""
    source: Annotated[str, Field(max_length=512, pattern=r"^(hf|pvc)://[A-Za-z0-9][A-Za-z0-9._:/@-]*$")]
    """DeepSeek's official checkpoint, whose MTP head has FP4 experts: pvc://CLAIM/FOLDER or hf://OWNER/NAME@COMMIT.
    Cannot be changed later."""
    capture: Annotated[str, Field(max_length=512, pattern=r"^pvc://[A-Za-z0-9][A-Za-z0-9._/-]*$")] | None = None
    """Calibration data for GPTQ (docs/quantiser.md): pvc://CLAIM/FOLDER. Without it matrices are rounded to nearest."""
    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")] | None = None
    """Image of the quantiser; the operator's default where absent."""


class ModelSpec(ApiModel):
    """The checkpoint, and the names under which it is served."""

    source: Annotated[str, Field(max_length=512, pattern=r"^(hf|oci|pvc)://[A-Za-z0-9][A-Za-z0-9._:/@-]*$")]
    """Where the weights are: pvc://CLAIM/FOLDER, oci://IMAGE, or hf://OWNER/NAME. Cannot be changed later."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Commit of an hf:// source. Pin it: a branch can move between two replicas."""
    oci_delivery: Literal["Auto", "ImageVolume", "Fetch"] = "Auto"
    """How an oci:// model comes. ImageVolume: the kubelet mounts it. Fetch: an init container pulls and unpacks it.
    Auto: the first where the cluster has it, else the second."""
    cache: CacheSpec | None = None
    """Where a model that is fetched is kept, hf:// or oci://; in the pod where absent."""
    credentials_secret: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")] | None = None
    """Secret for where the model is from. For an hf:// source, restoreMtp's too: the hub's token under the key `token`.
    For an oci:// source: of type kubernetes.io/dockerconfigjson. Only what fetches sees it."""
    hub_endpoint: (
        Annotated[str, Field(max_length=512, pattern=r"^https?://[A-Za-z0-9.:_\[\]-]+(/[A-Za-z0-9._~/-]*)?$")] | None
    ) = None
    """Address of the hub of an hf:// source, restoreMtp's too: a mirror, or your own; the public one where absent."""
    served_names: Annotated[list[ServedName], Field(min_length=1, max_length=8)] = ["deepseek-v4-flash"]
    """Names that clients may ask for; the first one is used by the gate."""
    restore_mtp: RestoreMtpSpec | None = None
    """Restore the MTP head that most quantised checkpoints lack. Needs a pvc:// source."""
