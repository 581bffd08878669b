"""One CEL rule of the CRD."""

import re
from dataclasses import dataclass, replace
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

    def only_if_changed(self) -> "Rule":
        """This rule of the whole spec, for new objects and where a field that it reads changes.

        The API server lets a stored object break a rule that is newer than it only where everything below the rule is
        unchanged. At `spec` it would so refuse an autoscaler's replicas because of fields that nobody touches.
        """
        return replace(
            self, rule=f"(oldSelf.hasValue() && {self._reads_the_same()}) || ({self.rule})", has_optional_old_self=True
        )

    def _reads_the_same(self) -> str:
        """CEL: whether `oldSelf` has the values of all fields that the rule reads.

        Not by `oldSelf.?field`, for which the API server estimates the greatest cost there is.
        """
        optional = list(dict.fromkeys(PRESENCE.findall(self.rule)))
        parts = [f"has(oldSelf.value().{path}) == has(self.{path})" for path in optional]
        for path in dict.fromkeys(READ.findall(PRESENCE.sub("", self.rule))):
            absent = [f"!has(self.{parent}) || " for parent in optional if f"{path}.".startswith(f"{parent}.")]
            parts.append(f"({''.join(absent)}oldSelf.value().{path} == self.{path})")
        return " && ".join(parts)


PRESENCE = re.compile(r"has\(self\.([a-zA-Z.]+)\)")
READ = re.compile(r"\bself\.([a-zA-Z]+\b(?!\()(?:\.[a-zA-Z]+\b(?!\())*)")
"""A field of `self`, without a function that is called on it."""


def quoted(text: str) -> str:
    """A CEL string literal of this text, such as a regular expression."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
