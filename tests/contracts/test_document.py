"""Documents as frozen dataclasses: one class writes and reads, and what is not right is refused with its place."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from flash_contracts.document import FORMER_KEY, KEY, LOCAL, BadDocumentError, Document


class Colour(StrEnum):
    RED = "Red"


@dataclass(frozen=True)
class Part(Document):
    OMITS_DEFAULTS: ClassVar[bool] = True

    name: str
    size_in_bytes: int = 0


@dataclass(frozen=True)
class Whole(Document):
    IS_VERSIONED: ClassVar[bool] = True

    text: str
    number: float = 0.0
    count: int = 0
    yes: bool = False
    maybe: str | None = None
    kind: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    parts: tuple[Part, ...] = ()
    by_size: dict[int, float] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)
    named: str = field(default="", metadata={KEY: "schema"})
    renamed: str = field(default="", metadata={FORMER_KEY: "old_name"})
    here: int = field(default=0, metadata={LOCAL: True})


FULL = Whole(
    "t", 1.5, 2, yes=True, maybe="m", kind="b", parts=(Part("p", 3), Part("q")), by_size={8: 1.25},
    free={"any": [1, None]}, named="n", renamed="r",
)  # fmt: skip


def test_what_is_written_is_read_back_the_same() -> None:
    assert Whole.parse(FULL.to_json()) == FULL
    assert Whole.parse_text(FULL.to_text()) == FULL


def test_keys_are_in_camel_case_and_small_parts_leave_out_their_defaults() -> None:
    document = FULL.to_json()
    assert document["version"] == 1
    assert document["parts"] == [{"name": "p", "sizeInBytes": 3}, {"name": "q"}]
    assert (document["bySize"], document["schema"], document["colour"]) == ({"8": 1.25}, "n", "Red")
    assert "here" not in document


def test_a_key_of_another_release_is_ignored_and_a_missing_one_takes_its_default() -> None:
    assert Whole.parse({"text": "t", "addedLater": {"a": 1}, "here": 7}) == Whole("t")


def test_the_key_of_a_former_release_is_read_where_the_present_one_is_missing() -> None:
    assert Whole.parse({"text": "t", "old_name": "before"}).renamed == "before"
    assert Whole.parse({"text": "t", "old_name": "before", "renamed": "now"}).renamed == "now"


BAD = {
    "no object": ([], "Whole: not an object"),
    "a missing text": ({}, "text is missing"),
    "a number for a text": ({"text": 1}, "text: 1 is not a text"),
    "a text for a number": ({"text": "t", "number": "1"}, "number: '1' is not a number"),
    "a truth for a count": ({"text": "t", "count": True}, "count: True is not a whole number"),
    "a fraction for a count": ({"text": "t", "count": 1.5}, "count: 1.5 is not a whole number"),
    "a count for a truth": ({"text": "t", "yes": 1}, "yes: 1 is not true or false"),
    "a word of its own": ({"text": "t", "kind": "c"}, "kind: 'c' is none of a, b"),
    "an unknown colour": ({"text": "t", "colour": "Blue"}, "colour: 'Blue' is none of Red"),
    "a list as a word": ({"text": "t", "kind": ["a"]}, "kind: ['a'] is none of a, b"),
    "no list": ({"text": "t", "parts": {}}, "parts: {} is not a list"),
    "a part without its name": ({"text": "t", "parts": [{"name": "p"}, {}]}, "parts[1].name is missing"),
    "a part that is a text": ({"text": "t", "parts": ["p"]}, "parts[0]: not an object"),
    "a key that is no number": ({"text": "t", "bySize": {"x": 1}}, "bySize: invalid literal for int()"),
    "another version": ({"version": 2, "text": "t"}, "Whole: version 2, and this release reads 1"),
}


@pytest.mark.parametrize(("raw", "told"), BAD.values(), ids=BAD.keys())
def test_what_is_not_right_is_refused_with_its_place(raw: object, told: str) -> None:
    with pytest.raises(BadDocumentError) as caught:
        Whole.parse(raw)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("text", ["", "{", b"\xff\xfe", "[" * 100_000], ids=["nothing", "half", "no text", "deep"])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(BadDocumentError):
        Whole.parse_text(text)


def test_a_file_is_replaced_whole_and_one_that_makes_no_sense_is_none(tmp_path: Path) -> None:
    file = tmp_path / "whole.json"
    assert Whole.read(file) is None
    FULL.write(file)
    assert Whole.read(file) == FULL
    assert json.loads(file.read_text())["text"] == "t"
    assert [path.name for path in tmp_path.iterdir()] == ["whole.json"]
    file.write_text('{"text": ')
    assert Whole.read(file) is None
