"""What a command prints: text for people, or a document of a declared shape for programs. Never both on stdout."""

import json
import re
import sys
from enum import StrEnum
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from rich.console import Console, RenderableType

PIPE_WIDTH = 160
"""Columns where nobody looks at a terminal: lines are for grep, so few are wrapped."""


class Format(StrEnum):
    """Of `-o`."""

    TEXT = "text"
    JSON = "json"


class Document(BaseModel):
    """A part of what `-o json` prints. Fields are only added within a minor version."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True, mode="json", exclude_none=True)


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters except tab and line feed: text from a log could move the cursor or rename the window."""


def plain(text: str) -> str:
    """Text from the cluster, safe for a terminal."""
    return CONTROL.sub("", text)


def console(stream: TextIO | None = None) -> Console:
    """Colours only on a terminal that wants them (NO_COLOR); names with brackets are no markup."""
    out = stream or sys.stdout
    width = None if out.isatty() else PIPE_WIDTH
    return Console(file=out, width=width, markup=False, highlight=False, emoji=False)


def show(document: Document, text: RenderableType, output: Format, stream: TextIO | None = None) -> None:
    """Print one of both."""
    if output is Format.JSON:
        print(json.dumps(document.as_json(), indent=2), file=stream or sys.stdout)
    else:
        console(stream).print(text)
