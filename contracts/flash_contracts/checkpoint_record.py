"""`checkpoint.json`: the findings about a checkpoint's headers, and the KV cache that each profile leaves.

The launcher writes it before it starts the engine, and reads it at the next start to notice a branch that has moved.
The gate reads the checkpoint's size. `flash-checkpoint inspect --json` prints the same document.
"""

from dataclasses import dataclass
from typing import ClassVar

from flash_contracts.document import Document


@dataclass(frozen=True)
class CheckpointFinding(Document):
    """A problem with the checkpoint, or a remark about it."""

    code: str
    """CamelCase, from `flash_engine.checkpoint.finding.CODES`."""
    severity: str
    """refused, repaired (the plugin fixes it while loading) or note."""
    message: str
    remedy: str
    tensors: tuple[str, ...] = ()
    """All tensors concerned."""
    without_plugin: str = ""
    """What vLLM does without the plugin."""

    @property
    def sentence(self) -> str:
        return f"{self.message}: {self.remedy}"


@dataclass(frozen=True)
class KvBudget(Document):
    """The KV cache that a profile leaves on each GPU."""

    profile: str
    context_tokens: int
    batched_tokens: int
    kv_bytes_per_gpu: int
    kv_tokens: int
    requests_of_whole_context: float
    """How many requests with the whole context fit into it."""


@dataclass(frozen=True)
class ProfileBudget(KvBudget):
    """A profile's budget, and the budget with the number of batched tokens advised for this checkpoint."""

    advised: KvBudget | None = None


@dataclass(frozen=True)
class AdvisedFlag(Document):
    """A vLLM argument that this checkpoint needs, with its reason."""

    value: str
    reason: str


@dataclass(frozen=True)
class CheckpointRecord(Document):
    """One check of a checkpoint; sizes in bytes."""

    FILE: ClassVar[str] = "checkpoint.json"
    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "launcher"
    READERS: ClassVar[tuple[str, ...]] = ("launcher", "gate", "flash-checkpoint")

    place: str = ""
    """Folder, or repository and revision, that was checked."""
    commit: str | None = None
    """The commit of a hub repository."""
    servable: bool = True
    layout: str | None = None
    """The name of the layout in which the weights are stored; None if the headers cannot be read."""
    tensors: int = 0
    """Number of tensors."""
    stored_bytes: int = 0
    findings: tuple[CheckpointFinding, ...] = ()
    weights_bytes_per_gpu: int | None = None
    """None if the layout is unknown."""
    profiles: tuple[ProfileBudget, ...] = ()
    flags: tuple[AdvisedFlag, ...] = ()
