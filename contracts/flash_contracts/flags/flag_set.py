"""A set of flags as a value: what it does, and why each part is there.

The operator writes it into the annotation `deepseekflash.dev/engine-flags` of a pod, and the safe set into the pod
template; the launcher starts the engine with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

from flash_contracts.document import LOCAL, BadDocumentError, Document

Source = Literal["user", "label", "probe", "fallback", "default"]


@dataclass(frozen=True)
class FlagArg(Document):
    """One vLLM argument."""

    value: str
    """With values of its own after blanks, where it takes several."""
    source: str = "default"
    """A `Source`; a newer operator may know more of them."""
    reason: str = ""


@dataclass(frozen=True)
class FlagEnv(Document):
    """One environment variable of the engine."""

    name: str
    value: str
    source: str = "default"
    reason: str = ""


@dataclass(frozen=True)
class Conflict:
    """Wishes and facts that contradict each other. The message ends with the remedy."""

    reason: str
    message: str


@dataclass(frozen=True)
class FlagSet(Document):
    """All flags that depend on a node's links."""

    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "operator"
    READERS: ClassVar[tuple[str, ...]] = ("launcher", "operator", "labeller")

    row: str
    args: tuple[FlagArg, ...]
    env: tuple[FlagEnv, ...]
    unset: tuple[str, ...] = ()
    """Variables that must not reach the engine."""
    conflicts: tuple[Conflict, ...] = field(default=(), metadata={LOCAL: True})
    """For the status; they are no part of what the engine is given."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        """Read the parsed JSON. Raises BadDocumentError, also for what no process can be given."""
        found = super().parse(raw)
        for text in (*found.arguments, *found.variables.values(), *found.unset):
            _must_be_passable(text)
        for name in found.variables:
            _must_be_a_name(name)
        return found

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(argument.value for argument in self.args)

    @property
    def variables(self) -> dict[str, str]:
        return {variable.name: variable.value for variable in self.env}

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments as a program gets them: one that takes several values has them after blanks."""
        return tuple(word for argument in self.arguments for word in argument.split())

    @property
    def spelled(self) -> tuple[str, ...]:
        """Each flag as a person would write it."""
        return (*self.arguments, *(f"{name}={value}" for name, value in self.variables.items()))

    def same_effect(self, other: "FlagSet") -> bool:
        """The engine would be started alike; rows, reasons and sources may differ."""
        return self.effect == other.effect

    @property
    def effect(self) -> tuple[frozenset[object], ...]:
        """What the engine sees of it, in no particular order."""
        return frozenset(self.arguments), frozenset(self.variables.items()), frozenset(self.unset)

    def explained(self) -> Iterator[str]:
        """One line a flag: what, from whom, why."""
        for argument in self.args:
            yield f"{argument.value} ({argument.source}: {argument.reason})"
        for variable in self.env:
            yield f"{variable.name}={variable.value} ({variable.source}: {variable.reason})"
        for name in self.unset:
            yield f"{name} removed"


def _must_be_passable(text: str) -> None:
    if "\0" in text:
        raise BadDocumentError(f"{text!r} holds a NUL, which no process can be given")


def _must_be_a_name(name: str) -> None:
    """The kernel takes no other, and a start that fails on it would fail for ever."""
    _must_be_passable(name)
    if not name or "=" in name:
        raise BadDocumentError(f"{name!r} is not the name of a variable")
