"""A set of engine flags, with the source and the reason of each.

The operator writes it into the pod annotation `deepseekflash.dev/engine-flags`, and the safe flags into the pod
template. The launcher starts the engine with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

from flash_contracts.document import LOCAL, BadDocumentError, Document

Source = Literal["user", "label", "p2pTest", "fallback", "default"]


@dataclass(frozen=True)
class FlagArg(Document):
    """One vLLM argument."""

    value: str
    """The argument; several values are separated by spaces."""
    source: str = "default"
    """A `Source`. A newer operator may use others."""
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
    """A contradiction between the spec and the facts. The message ends with the remedy."""

    reason: str
    message: str


@dataclass(frozen=True)
class FlagSet(Document):
    """All flags that depend on the node."""

    IS_VERSIONED: ClassVar[bool] = True
    WRITER: ClassVar[str] = "operator"
    READERS: ClassVar[tuple[str, ...]] = ("launcher", "operator", "labeller")

    row: str
    args: tuple[FlagArg, ...]
    env: tuple[FlagEnv, ...]
    unset: tuple[str, ...] = ()
    """Variables that must not reach the engine."""
    conflicts: tuple[Conflict, ...] = field(default=(), metadata={LOCAL: True})
    """For status. Not passed to the engine."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        """Read a document from parsed JSON. Raises BadDocumentError, including for values that no process accepts."""
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
    def argv(self) -> tuple[str, ...]:
        """The arguments as separate words, as a process gets them."""
        return tuple(word for argument in self.arguments for word in argument.split())

    @property
    def spelled(self) -> tuple[str, ...]:
        """Each flag as written on a command line."""
        return (*self.arguments, *(f"{name}={value}" for name, value in self.variables.items()))

    def same_effect(self, other: "FlagSet") -> bool:
        """Whether the engine would be started with the same flags. Rows, reasons and sources may differ."""
        return self.effect == other.effect

    @property
    def effect(self) -> tuple[frozenset[object], ...]:
        """What the engine gets, in no particular order."""
        return frozenset(self.arguments), frozenset(self.variables.items()), frozenset(self.unset)

    def explained(self) -> Iterator[str]:
        """One line for each flag: the flag, its source and its reason."""
        for argument in self.args:
            yield f"{argument.value} ({argument.source}: {argument.reason})"
        for variable in self.env:
            yield f"{variable.name}={variable.value} ({variable.source}: {variable.reason})"
        for name in self.unset:
            yield f"{name} removed"


def _must_be_passable(text: str) -> None:
    if "\0" in text:
        raise BadDocumentError(f"{text!r} contains a NUL, which no process accepts")


def _must_be_a_name(name: str) -> None:
    """Reject names with which every start would fail."""
    _must_be_passable(name)
    if not name or "=" in name:
        raise BadDocumentError(f"{name!r} is not the name of a variable")
