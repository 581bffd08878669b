"""Reads the settings of a pod's process from environment variables.

Every process reads its settings through this class, so that all report a bad one in the same way: the variable, its
value, and what it must be.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Choice = TypeVar("Choice", bound=str)

LAST_PORT = 65_535


class SettingError(ValueError):
    """A setting is missing or invalid. The message names the variable."""

    def __init__(self, name: str, value: str | None, expected: str) -> None:
        """`value` is None if the variable is missing or empty. `expected` completes "it must be …"."""
        state = "is not set" if value is None else f"is {value!r}"
        super().__init__(f"{name} {state}; it must be {expected}")
        self.name = name


@dataclass(frozen=True)
class Environment:
    """Typed access to environment variables. Every method raises SettingError if the value is invalid.

    An empty required variable counts as missing.
    """

    variables: Mapping[str, str]

    def text(self, name: str, default: str | None = None, *, expected: str = "set") -> str:
        """The unchanged value; required if there is no default."""
        if default is not None:
            return self.variables.get(name, default)
        return self.variables.get(name) or self._missing(name, expected)

    def optional_text(self, name: str) -> str | None:
        """None if the variable is missing or empty."""
        return self.variables.get(name) or None

    def path(self, name: str) -> Path:
        return Path(self.text(name, expected="a path"))

    def optional_path(self, name: str, default: str = "") -> Path | None:
        """None if the variable is empty, or if it is missing and there is no default."""
        text = self.variables.get(name, default)
        return Path(text) if text else None

    def choice(self, name: str, choices: Sequence[Choice]) -> Choice:
        """One of the choices; the first is the default."""
        text = self.variables.get(name, choices[0])
        for choice in choices:
            if choice == text:
                return choice
        raise SettingError(name, text, f"one of {', '.join(choices)}")

    def seconds(self, name: str, default: float) -> float:
        """A finite number that is not negative."""
        value = self._number(name, default)
        if not 0 <= value < math.inf:
            raise SettingError(name, self.variables.get(name), "a number of seconds")
        return value

    def positive(self, name: str, default: float) -> float:
        """A finite number above 0."""
        value = self._number(name, default)
        if not 0 < value < math.inf:
            raise SettingError(name, self.variables.get(name), "a positive number")
        return value

    def port(self, name: str, default: int) -> int:
        """The number of a TCP port."""
        text = self.variables.get(name, str(default))
        if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= LAST_PORT):
            raise SettingError(name, text, f"a port between 1 and {LAST_PORT}")
        return int(text)

    def _number(self, name: str, default: float) -> float:
        """NaN for a text that is not a number."""
        try:
            return float(self.variables.get(name, default))
        except ValueError:
            return math.nan

    def _missing(self, name: str, expected: str) -> str:
        raise SettingError(name, None, expected)
