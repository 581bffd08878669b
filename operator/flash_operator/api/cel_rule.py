"""One rule in CEL, with the words that its breach is told in."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """One `x-kubernetes-validations` entry. `where` is the field below that the message belongs to."""

    rule: str
    message: str
    where: str | None = None
    told: str | None = None
    """An expression that gives the message with the figures of the object; `message` where it fails."""

    def document(self) -> dict[str, Any]:
        made = {"rule": self.rule, "message": self.message}
        if self.told:
            made["messageExpression"] = self.told
        if self.where:
            made["fieldPath"] = self.where
        return made
