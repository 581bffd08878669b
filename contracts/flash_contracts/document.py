"""JSON documents as frozen dataclasses: the same class writes a document and reads it back.

    @dataclass(frozen=True)
    class Example(Document):
        code: int | None = None
        last_lines: tuple[str, ...] = ()

    Example(1, ("out of memory",)).to_json()          {"code": 1, "lastLines": ["out of memory"]}
    Example.parse({"code": 1, "addedLater": True})    Example(code=1, last_lines=())

Keys are camelCase. Unknown keys are ignored, so that the reader may be older than the writer. A missing key takes the
field's default. A value of the wrong type raises an error that names the key's path.
"""

import contextlib
import dataclasses
import enum
import errno
import json
import math
import os
import reprlib
import types
import typing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, cast

VERSION = 1

# Keys of a field's metadata.
KEY = "key"
"""The JSON key, if it is not the field's name in camelCase."""
FORMER_KEY = "former_key"
"""The JSON key of earlier releases, read if the current one is missing."""
OPTIONAL = "optional"
"""True: an invalid value is replaced by the field's default instead of making the whole document invalid."""
OMITTED = "omitted"
"""True: the field is omitted while it has its default value, so that the document is written as before."""
LOCAL = "local"
"""True: the field is neither written to JSON nor read from it."""


class BadDocumentError(ValueError):
    """A document is invalid. The message names the key and what is wrong with it."""


@dataclass(frozen=True)
class Document:
    """Base class of every document and of its parts."""

    IS_VERSIONED: ClassVar[bool] = False
    """Whether it is written with `"version": 1`. Reading another version raises an error."""
    WRITER: ClassVar[str] = ""
    READERS: ClassVar[tuple[str, ...]] = ()
    """The parts that write and read it, for whole documents. `hack/documents.py` lists them."""
    OMITS_DEFAULTS: ClassVar[bool] = False
    """Whether fields with their default value are omitted, for documents that must be small."""

    def to_json(self) -> dict[str, Any]:
        version = {"version": VERSION} if self.IS_VERSIONED else {}
        return {**version, **{_key(field): _written(getattr(self, field.name)) for field in self._written_fields()}}

    def _written_fields(self) -> "list[dataclasses.Field[Any]]":
        fields = _shared_fields(type(self))
        return [field for field in fields if not (self._omits(field) and getattr(self, field.name) == _default(field))]

    def _omits(self, field: "dataclasses.Field[Any]") -> bool:
        return self.OMITS_DEFAULTS or bool(field.metadata.get(OMITTED))

    def to_text(self) -> str:
        """Compact JSON with sorted keys: equal documents give the same bytes."""
        return json.dumps(self.to_json(), separators=(",", ":"), sort_keys=True)

    @classmethod
    def parse(cls, raw: object) -> Self:
        """Read a document from parsed JSON. Raises BadDocumentError."""
        return _read_document(cls, raw, "")

    @classmethod
    def parse_text(cls, text: str | bytes) -> Self:
        """Read a document from JSON text. Raises BadDocumentError."""
        try:
            return cls.parse(json.loads(text))
        except BadDocumentError:
            raise
        except (ValueError, RecursionError) as error:
            raise BadDocumentError(f"not JSON: {error}") from error

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a file. None if it is missing or invalid."""
        try:
            return cls.parse_text(path.read_bytes())
        except (OSError, BadDocumentError):
            return None

    def write(self, path: Path) -> None:
        """Write a file atomically (`write_json`). Raises OSError."""
        write_json(path, self.to_json(), flush=self.survives_power_cut)

    @property
    def survives_power_cut(self) -> bool:
        """Whether `write` syncs the file to disk before it returns, which takes a while on a busy disk."""
        return False


_SHORT = reprlib.Repr()
_SHORT.maxstring = 80


def _shown(value: object) -> str:
    """A value for an error message, shortened because an untrusted writer may send one of any size and depth."""
    return _SHORT.repr(value)


def _shared_fields(cls: "type[Document]") -> "tuple[dataclasses.Field[Any], ...]":
    return tuple(field for field in dataclasses.fields(cls) if not field.metadata.get(LOCAL))


def _default(field: "dataclasses.Field[Any]") -> Any:
    """The field's default; MISSING, which equals no value, if it has none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _key(field: "dataclasses.Field[Any]") -> str:
    head, *rest = field.name.split("_")
    return field.metadata.get(KEY) or head + "".join(word.capitalize() for word in rest)


def _written(value: Any) -> Any:
    match value:
        case Document():
            return value.to_json()
        case enum.Enum():
            return value.value
        case tuple() | list():
            return [_written(item) for item in value]
        case dict():
            return {str(key): _written(item) for key, item in value.items()}
        case _:
            return value


def now() -> str:
    """The current time in RFC 3339, to the millisecond."""
    return timestamp(datetime.now(UTC))


def timestamp(at: datetime) -> str:
    """A time in UTC in RFC 3339, to the millisecond."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_json(path: Path, content: dict[str, Any], *, flush: bool = False) -> None:
    """Write a file atomically: a reader sees the old content or the new, never a partial file. Raises OSError.

    `flush` extends this to power cuts, after which some file systems would otherwise have an empty file.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("w") as file:
        json.dump(content, file, indent=1)
        if flush:
            file.flush()
            os.fsync(file.fileno())
    unfinished.replace(path)
    if flush:
        fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk, so that new files in it survive a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in the file, or None if it is missing or contains no object."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


T = TypeVar("T", bound=Document)


_TYPES: dict[type, dict[str, Any]] = {}


def _types_of(cls: type) -> dict[str, Any]:
    """The types of a class's fields, cached because resolving them takes longer than reading a document."""
    if cls not in _TYPES:
        _TYPES[cls] = typing.get_type_hints(cls)
    return _TYPES[cls]


def _read_document(cls: type[T], raw: object, path: str) -> T:
    if not isinstance(raw, dict):
        raise BadDocumentError(f"{path or cls.__name__}: not an object")
    version = raw.get("version", VERSION)
    if cls.IS_VERSIONED and version != VERSION:
        raise BadDocumentError(
            f"{path or cls.__name__}: version {_shown(version)}, but this release reads version {VERSION}"
        )
    known: dict[str, Any] = {}
    for field in _shared_fields(cls):
        key = _present_key(field, raw)
        if key in raw:
            with contextlib.suppress(*((BadDocumentError,) if field.metadata.get(OPTIONAL) else ())):
                known[field.name] = _read(_types_of(cls)[field.name], raw[key], f"{path}.{key}" if path else key)
        elif _default(field) is dataclasses.MISSING:
            raise BadDocumentError(f"{path}.{key} is missing" if path else f"{key} is missing")
    try:
        return cls(**known)
    except BadDocumentError as error:
        raise BadDocumentError(f"{path}: {error}" if path else str(error)) from error


def _present_key(field: "dataclasses.Field[Any]", raw: dict[str, Any]) -> str:
    key, former = _key(field), field.metadata.get(FORMER_KEY)
    return str(former) if former in raw and key not in raw else key


def _read(kind: Any, value: object, path: str) -> Any:  # noqa: PLR0911 - a return for each kind of field
    """Check and convert `value` to the type `kind`. Raises BadDocumentError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _read_optional(arguments, value, path)
    if origin is Literal:
        return _one_of(arguments, value, path)
    if origin is tuple:
        return tuple(_read(arguments[0], item, f"{path}[{at}]") for at, item in enumerate(_a_list(value, path)))
    if origin is dict:
        return _read_dict(arguments, value, path)
    if isinstance(kind, type) and issubclass(kind, Document):
        return _read_document(kind, value, path)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(_one_of([member.value for member in kind], value, path))
    return _read_scalar(kind, value, path)


def _read_optional(kinds: tuple[Any, ...], value: object, path: str) -> Any:
    """Read a union. Documents only have unions of a type and None."""
    (kind,) = (kind for kind in kinds if kind is not types.NoneType)
    return None if value is None else _read(kind, value, path)


def _one_of(values: typing.Sequence[Any], value: object, path: str) -> Any:
    if value not in values:
        raise BadDocumentError(f"{path}: {_shown(value)} is not one of {', '.join(map(str, values))}")
    return value


def _a_list(value: object, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadDocumentError(f"{path}: {_shown(value)} is not a list")
    return value


def _read_dict(kinds: tuple[Any, ...], value: object, path: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise BadDocumentError(f"{path}: {_shown(value)} is not an object")
    key_kind, item_kind = kinds
    try:
        keys = [key_kind(key) for key in value]
    except ValueError as error:
        raise BadDocumentError(f"{path}: {error}") from error
    return {key: _read(item_kind, item, f"{path}.{key}") for key, item in zip(keys, value.values(), strict=True)}


def _read_scalar(kind: type, value: object, path: str) -> Any:
    """Read a scalar. An int is valid as a float, because JSON has one number type; a bool is not valid as a number."""
    wanted = int | float if kind is float else kind
    if not isinstance(value, wanted) or (kind is not bool and isinstance(value, bool)) or not _is_portable(value):
        raise BadDocumentError(f"{path}: {_shown(value)} is not {_NAMES.get(kind, kind.__name__)}")
    return float(cast("float", value)) if kind is float else value


def _is_portable(value: object) -> bool:
    """Whether other JSON parsers accept it. Python's also reads lone surrogates and numbers too large for a float."""
    try:
        if isinstance(value, str):
            value.encode()
        return isinstance(value, str) or math.isfinite(cast("float", value))
    except (OverflowError, UnicodeEncodeError):
        return False


_NAMES: dict[type, str] = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
