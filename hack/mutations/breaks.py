"""The list of breaks: one TOML file for each part of the project, in this folder."""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

LISTS = "hack/mutations"


class ListError(ValueError):
    """The list is invalid. The message says what to fix."""


class Break(BaseModel):
    """One changed line, and the harm that it does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9]+/[a-z0-9-]+$")
    """PART/NAME."""
    harm: str = Field(min_length=20)
    """The effect for a user."""
    file: str
    before: str = Field(min_length=1)
    """The complete line, without its indentation. It must be in the file exactly once."""
    after: str
    """The replacement, with the same indentation."""
    tests: tuple[str, ...] = Field(min_length=1)
    """pytest ids of tests that fail: few and cheap ones. Those of tests/quantiser are run by their script."""

    def applied(self, text: str) -> str:
        """The file's text with the break. Raises ListError if the line is missing, or there more than once."""
        lines = text.splitlines(keepends=True)
        places = [number for number, line in enumerate(lines) if line.strip() == self.before]
        if len(places) != 1:
            seen = "is not there" if not places else f"is there {len(places)} times"
            raise ListError(f"{self.id}: the list is out of date: in {self.file} this line {seen}: {self.before}")
        (place,) = places
        line = lines[place]
        indent, end = line[: len(line) - len(line.lstrip())], line[len(line.rstrip("\r\n")) :]
        lines[place] = f"{indent}{self.after}{end}"
        return "".join(lines)

    def with_tests_of(self, root: Path) -> "Break":
        """The break with those of its tests that exist below `root`; an older commit lacks some."""
        return self.model_copy(update={"tests": tuple(test for test in self.tests if _is_there(test, root))})


def read_lists(root: Path) -> tuple[Break, ...]:
    """All breaks, part by part. Raises ListError."""
    found = tuple(one for file in sorted((root / LISTS).glob("*.toml")) for one in _read(file))
    if not found:
        raise ListError(f"no break is listed in {root / LISTS}")
    ids = [one.id for one in found]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ListError(f"these are listed twice: {', '.join(twice)}")
    return found


def chosen(breaks: Iterable[Break], names: Sequence[str]) -> tuple[Break, ...]:
    """The breaks of these ids or parts; all if none is named. Raises ListError for an unknown name."""
    breaks = tuple(breaks)
    known = {one.id for one in breaks} | {one.id.partition("/")[0] for one in breaks}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ListError(f"no break is called {', '.join(unknown)}: see --list")
    return tuple(one for one in breaks if not names or one.id in names or one.id.partition("/")[0] in names)


def out_of_date(breaks: Iterable[Break], root: Path) -> list[str]:
    """A sentence for each break that does not fit the files below `root`."""
    message = []
    for one in breaks:
        message += [
            f"{one.id}: the list is out of date: there is no test {test}"
            for test in one.tests
            if not _is_there(test, root)
        ]
        try:
            if one.applied((root / one.file).read_text()) == (root / one.file).read_text():
                message.append(f"{one.id}: it changes nothing")
        except OSError as error:
            message.append(f"{one.id}: the list is out of date: {one.file}: {error.strerror}")
        except ListError as error:
            message.append(str(error))
    return message


def _is_there(test: str, root: Path) -> bool:
    file, _, name = test.partition("::")
    return (root / file).is_file() and f"def {name.partition('[')[0]}(" in (root / file).read_text()


def _read(file: Path) -> list[Break]:
    try:
        raw = tomllib.loads(file.read_text())
        breaks = [Break.model_validate(one) for one in raw.pop("break", [])]
    except tomllib.TOMLDecodeError as error:
        raise ListError(f"{file.name}: {error}") from error
    except ValidationError as error:
        message = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ListError(f"{file.name}: break {error.errors()[0]['input']!r}: {message}") from error
    if raw:
        raise ListError(f"{file.name}: only [[break]] is known, and there is {', '.join(raw)}")
    return breaks
