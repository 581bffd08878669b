"""Documents as frozen dataclasses: the same class writes and reads them, and an error names the key."""

import contextlib
import errno
import json
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from flash_contracts.document import FORMER_KEY, KEY, LOCAL, OMITTED, BadDocumentError, Document, fsync_folder
from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_record import EngineRecord, Incident


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
    added: int = field(default=0, metadata={OMITTED: True})


FULL = Whole(
    "t", 1.5, 2, yes=True, maybe="m", kind="b", parts=(Part("p", 3), Part("q")), by_size={8: 1.25},
    free={"any": [1, None]}, named="n", renamed="r",
)  # fmt: skip


def test_a_document_survives_a_round_trip() -> None:
    assert Whole.parse(FULL.to_json()) == FULL
    assert Whole.parse_text(FULL.to_text()) == FULL


def test_a_field_that_was_added_leaves_documents_without_it_as_they_were() -> None:
    assert "added" not in Whole("t").to_json()
    assert Whole.parse(Whole("t", added=3).to_json()) == Whole("t", added=3)


def test_keys_are_in_camel_case_and_small_parts_leave_out_their_defaults() -> None:
    document = FULL.to_json()
    assert document["version"] == 1
    assert document["parts"] == [{"name": "p", "sizeInBytes": 3}, {"name": "q"}]
    assert (document["bySize"], document["schema"], document["colour"]) == ({"8": 1.25}, "n", "Red")
    assert "here" not in document


def test_a_key_of_another_release_is_ignored_and_a_missing_one_takes_its_default() -> None:
    assert Whole.parse({"text": "t", "addedLater": {"a": 1}, "here": 7}) == Whole("t")


def test_a_former_key_is_read_if_the_current_one_is_missing() -> None:
    assert Whole.parse({"text": "t", "old_name": "before"}).renamed == "before"
    assert Whole.parse({"text": "t", "old_name": "before", "renamed": "now"}).renamed == "now"


BAD = {
    "no object": ([], "Whole: not an object"),
    "a missing string": ({}, "text is missing"),
    "a number for a string": ({"text": 1}, "text: 1 is not a string"),
    "a string for a number": ({"text": "t", "number": "1"}, "number: '1' is not a number"),
    "a bool for an integer": ({"text": "t", "count": True}, "count: True is not an integer"),
    "a fraction for an integer": ({"text": "t", "count": 1.5}, "count: 1.5 is not an integer"),
    "an integer for a bool": ({"text": "t", "yes": 1}, "yes: 1 is not true or false"),
    "an unknown literal": ({"text": "t", "kind": "c"}, "kind: 'c' is not one of a, b"),
    "an unknown enum value": ({"text": "t", "colour": "Blue"}, "colour: 'Blue' is not one of Red"),
    "a list for a literal": ({"text": "t", "kind": ["a"]}, "kind: ['a'] is not one of a, b"),
    "no list": ({"text": "t", "parts": {}}, "parts: {} is not a list"),
    "a part without its name": ({"text": "t", "parts": [{"name": "p"}, {}]}, "parts[1].name is missing"),
    "a part that is a string": ({"text": "t", "parts": ["p"]}, "parts[0]: not an object"),
    "a key that is not a number": ({"text": "t", "bySize": {"x": 1}}, "bySize: invalid literal for int()"),
    "another version": ({"version": 2, "text": "t"}, "Whole: version 2, but this release reads version 1"),
}


@pytest.mark.parametrize(("raw", "message"), BAD.values(), ids=BAD.keys())
def test_an_invalid_document_raises_an_error_that_names_the_key(raw: object, message: str) -> None:
    with pytest.raises(BadDocumentError) as caught:
        Whole.parse(raw)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "text", ["", "{", b"\xff\xfe", "[" * 100_000], ids=["empty", "truncated", "not UTF-8", "too deep"]
)
def test_invalid_json_raises_an_error(text: str | bytes) -> None:
    with pytest.raises(BadDocumentError):
        Whole.parse_text(text)


def test_a_file_is_replaced_atomically_and_an_invalid_one_is_none(tmp_path: Path) -> None:
    file = tmp_path / "whole.json"
    assert Whole.read(file) is None
    FULL.write(file)
    assert Whole.read(file) == FULL
    assert json.loads(file.read_text())["text"] == "t"
    assert [path.name for path in tmp_path.iterdir()] == ["whole.json"]
    file.write_text('{"text": ')
    assert Whole.read(file) is None


def test_an_incident_is_synced_to_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power cut loses it, and the next start hangs again."""
    file, steps = tmp_path / EngineRecord.FILE, []

    def fsync(descriptor: int) -> None:
        what = Path(f"/proc/self/fd/{descriptor}").resolve()
        steps.append((what.name, what.stat().st_size > 0, file.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    EngineRecord(incident=Incident("hang")).write(file)
    assert steps == [(f".{file.name}.{os.getpid()}", True, False), (tmp_path.name, True, True)]
    EngineRecord().write(file)
    DownloadRecord().write(tmp_path / DownloadRecord.FILE)
    assert len(steps) == 2, "nothing else is worth waiting for a disk that is busy with a download"


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_volume_that_cannot_sync_folders_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, *, fails: bool
) -> None:
    def fsync(_: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="no") if fails else contextlib.nullcontext():
        fsync_folder(tmp_path)
