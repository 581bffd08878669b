"""One CEL rule of the CRD."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """An `x-kubernetes-validations` entry."""

    rule: str
    message: str
    field_path: str | None = None
    """Path of the field that the error is reported for, from the field that has the rule, such as `.revision`."""
    message_expression: str | None = None
    """CEL expression for a message that contains values of the object. `message` is used if it fails."""
    has_optional_old_self: bool = False
    """`oldSelf` is optional, so that the rule holds for new objects too."""

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"rule": self.rule, "message": self.message}
        if self.message_expression:
            entry["messageExpression"] = self.message_expression
        if self.field_path:
            entry["fieldPath"] = self.field_path
        if self.has_optional_old_self:
            entry["optionalOldSelf"] = True
        return entry


def quoted(text: str) -> str:
    """A CEL string literal of this text, such as a regular expression."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
