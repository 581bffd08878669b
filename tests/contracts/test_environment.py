"""Settings are read by type, and a bad one is reported by the name of its variable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flash_contracts.environment import Environment, SettingError

Read = Callable[[Environment], Any]

VALID: dict[str, tuple[dict[str, str], Read, Any]] = {
    "a text": ({"NAME": "a"}, lambda e: e.text("NAME"), "a"),
    "a default": ({}, lambda e: e.text("NAME", "b"), "b"),
    "an empty text where there is a default": ({"NAME": ""}, lambda e: e.text("NAME", "b"), ""),
    "no optional text": ({}, lambda e: e.optional_text("NAME"), None),
    "an empty optional text": ({"NAME": ""}, lambda e: e.optional_text("NAME"), None),
    "a path": ({"NAME": "/run"}, lambda e: e.path("NAME"), Path("/run")),
    "no optional path": ({}, lambda e: e.optional_path("NAME"), None),
    "an optional path's default": ({}, lambda e: e.optional_path("NAME", "/dev/null"), Path("/dev/null")),
    "a default path that is switched off": ({"NAME": ""}, lambda e: e.optional_path("NAME", "/dev/null"), None),
    "the first choice": ({}, lambda e: e.choice("NAME", ("x", "y")), "x"),
    "another choice": ({"NAME": "y"}, lambda e: e.choice("NAME", ("x", "y")), "y"),
    "no seconds": ({"NAME": "0"}, lambda e: e.seconds("NAME", 30.0), 0.0),
    "default seconds": ({}, lambda e: e.seconds("NAME", 30.0), 30.0),
    "a positive number": ({"NAME": " 2.5 "}, lambda e: e.positive("NAME", 1.0), 2.5),
    "a port": ({"NAME": "65535"}, lambda e: e.port("NAME", 9400), 65535),
}


@pytest.mark.parametrize(("variables", "read", "expected"), VALID.values(), ids=VALID.keys())
def test_a_valid_setting(variables: dict[str, str], read: Read, expected: Any) -> None:
    assert read(Environment(variables)) == expected


INVALID: dict[str, tuple[dict[str, str], Read, str]] = {
    "a missing text": ({}, lambda e: e.text("NAME", expected="a URL"), "NAME is not set; it must be a URL"),
    "an empty path": ({"NAME": ""}, lambda e: e.path("NAME"), "NAME is not set; it must be a path"),
    "an unknown choice": ({"NAME": "Y"}, lambda e: e.choice("NAME", ("x", "y")), "NAME is 'Y'; it must be one of x, y"),
    "an empty choice": ({"NAME": ""}, lambda e: e.choice("NAME", ("x", "y")), "NAME is ''; it must be one of x, y"),
    **{
        f"{text!r} seconds": (
            {"NAME": text},
            lambda e: e.seconds("NAME", 30.0),
            f"NAME is {text!r}; it must be a number of seconds",
        )
        for text in ("soon", "", "nan", "inf", "-1")
    },
    **{
        f"{text!r} streams": (
            {"NAME": text},
            lambda e: e.positive("NAME", 8.0),
            f"NAME is {text!r}; it must be a positive number",
        )
        for text in ("0", "-0.0", "nan", "1e999", "8 streams")
    },
    **{
        f"port {text!r}": (
            {"NAME": text},
            lambda e: e.port("NAME", 9400),
            f"NAME is {text!r}; it must be a port between 1 and 65535",
        )
        for text in ("http", "0", "65536", "-1", "", "9400.0", "²")
    },
}


@pytest.mark.parametrize(("variables", "read", "message"), INVALID.values(), ids=INVALID.keys())
def test_an_invalid_setting_is_named(variables: dict[str, str], read: Read, message: str) -> None:
    with pytest.raises(SettingError) as error:
        read(Environment(variables))
    assert (str(error.value), error.value.name) == (message, "NAME")
