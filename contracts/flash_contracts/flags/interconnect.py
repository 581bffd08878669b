"""`spec.interconnect`, as the derivation of flags reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


class Variable(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> str: ...


class Interconnect(Protocol):
    """Implemented by `flash_operator.api.v1alpha1.InterconnectSpec`, which documents the fields."""

    @property
    def mode(self) -> Literal["Auto", "Safe", "Fast"]: ...
    @property
    def custom_all_reduce(self) -> Literal["Auto", "Enabled", "Disabled"]: ...
    @property
    def nccl_profile(self) -> Literal["None", "PcieLowLatency"]: ...
    @property
    def env(self) -> Sequence[Variable]: ...
    @property
    def numa_binding(self) -> Literal["Cpus", "CpusAndMemory", "Disabled"]: ...


@dataclass(frozen=True)
class DefaultInterconnect:
    """The values that apply if the user sets none."""

    mode: Literal["Auto"] = "Auto"
    custom_all_reduce: Literal["Auto"] = "Auto"
    nccl_profile: Literal["None"] = "None"
    env: tuple[Variable, ...] = ()
    numa_binding: Literal["Cpus"] = "Cpus"
