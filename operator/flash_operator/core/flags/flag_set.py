"""A set of flags as a value: what it does, and why each part is there."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Source = Literal["user", "label", "probe", "fallback", "default"]

VERSION = 1


@dataclass(frozen=True)
class FlagArg:
    """One vLLM argument."""

    value: str
    """With values of its own after blanks, where it takes several."""
    source: Source
    reason: str


@dataclass(frozen=True)
class FlagEnv:
    """One environment variable of the engine."""

    name: str
    value: str
    source: Source
    reason: str


@dataclass(frozen=True)
class Conflict:
    """Wishes and facts that speak against each other. The message ends with the remedy."""

    reason: str
    message: str


@dataclass(frozen=True)
class FlagSet:
    """All flags that depend on a node's links."""

    row: str
    args: tuple[FlagArg, ...] = ()
    env: tuple[FlagEnv, ...] = ()
    unset: tuple[str, ...] = ()
    """Variables that must not reach the engine."""
    conflicts: tuple[Conflict, ...] = ()

    def to_annotation(self) -> str:
        """Compact JSON, the same bytes for the same set. Conflicts stay behind: they are for the status."""
        document = {
            "version": VERSION,
            "row": self.row,
            "args": [asdict(argument) for argument in self.args],
            "env": [asdict(variable) for variable in self.env],
            "unset": list(self.unset),
        }
        return json.dumps(document, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_annotation(cls, text: str) -> "FlagSet":
        """Read an annotation back. Raises ValueError for anything that `to_annotation` cannot have written."""
        return cls.from_document(json.loads(text))

    @classmethod
    def from_document(cls, document: Any) -> "FlagSet":
        """Read the parsed form. Raises ValueError."""
        try:
            return cls(
                row=str(document["row"]),
                args=tuple(FlagArg(a["value"], _source(a), a["reason"]) for a in document["args"]),
                env=tuple(FlagEnv(e["name"], e["value"], _source(e), e["reason"]) for e in document["env"]),
                unset=tuple(document.get("unset", ())),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a set of engine flags: {error!r}") from error

    def same_effect(self, other: "FlagSet") -> bool:
        """The engine would be started alike; reasons and sources may differ."""
        return self.effect == other.effect

    @property
    def effect(self) -> tuple[Any, ...]:
        """What the engine sees of it, in no particular order."""
        arguments = frozenset(argument.value for argument in self.args)
        variables = frozenset((variable.name, variable.value) for variable in self.env)
        return arguments, variables, frozenset(self.unset)

    def explained(self) -> Iterator[str]:
        """One line a flag: what, from whom, why."""
        for argument in self.args:
            yield f"{argument.value} ({argument.source}: {argument.reason})"
        for variable in self.env:
            yield f"{variable.name}={variable.value} ({variable.source}: {variable.reason})"
        for name in self.unset:
            yield f"{name} removed"


def _source(item: dict[str, Any]) -> Source:
    if item["source"] not in get_args(Source):
        raise ValueError(f"unknown source {item['source']!r}")
    source: Source = item["source"]
    return source
