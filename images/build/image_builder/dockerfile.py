"""Parses a Dockerfile into stages, and reduces it to those that one target needs.

buildah 1.28 (Debian 12) builds every stage of a file, needed or not, and has no content keys. So it gets a smaller
Dockerfile: only the stages of one image, with earlier images named by their keys.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

FROM: Final = re.compile(r"FROM\s+(?P<parent>\S+)\s+AS\s+(?P<name>[a-z0-9-]+)$")
COPY_FROM: Final = re.compile(r"COPY\s+--from=(?P<source>\S+)\s")
COPY_CONTEXT: Final = re.compile(r"(?:COPY|ADD)\s+(?!--)(?P<paths>.+)$")
ARGUMENT: Final = re.compile(r"ARG\s+(?P<name>\w+)(?:=(?P<default>\S+))?$")


class DockerfileError(ValueError):
    pass


@dataclass(frozen=True)
class Stage:
    name: str
    parent: str
    """An image, or an earlier stage."""

    instructions: tuple[str, ...]
    """Without FROM, with continued lines joined, and without comments, so that changing one rebuilds nothing."""

    def sources(self) -> list[str]:
        """Stages or images that files are copied from."""
        return [match["source"] for line in self.instructions if (match := COPY_FROM.match(line))]

    def context_paths(self) -> list[str]:
        """Files and folders of the build context."""
        found = [match["paths"].split() for line in self.instructions if (match := COPY_CONTEXT.match(line))]
        return [path for paths in found for path in paths[:-1]]

    def setting(self, instruction: str) -> str | None:
        """The last value of an instruction such as USER or ENTRYPOINT."""
        values = [line.split(maxsplit=1)[1] for line in self.instructions if line.split(maxsplit=1)[0] == instruction]
        return values[-1] if values else None


@dataclass(frozen=True)
class Dockerfile:
    arguments: Mapping[str, str | None]
    stages: tuple[Stage, ...]

    @classmethod
    def parse(cls, text: str) -> "Dockerfile":
        arguments: dict[str, str | None] = {}
        stages: list[Stage] = []
        for line in instructions(text):
            if match := FROM.match(line):
                stages.append(Stage(match["name"], match["parent"], ()))
            elif line.startswith("FROM"):
                raise DockerfileError(f"every stage needs a name: {line!r}")
            elif stages:
                last = stages.pop()
                stages.append(Stage(last.name, last.parent, (*last.instructions, line)))
            elif match := ARGUMENT.match(line):
                arguments[match["name"]] = match["default"]
            else:
                raise DockerfileError(f"only ARG may precede the first FROM: {line!r}")
        return cls(arguments, tuple(stages))

    def stage(self, name: str) -> Stage:
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise DockerfileError(f"no stage is named {name!r}; there are {', '.join(stage.name for stage in self.stages)}")

    def resolved(self, arguments: Mapping[str, str]) -> "Dockerfile":
        """With `${NAME}` in every FROM replaced by an argument or its default."""
        values = {**self.arguments, **arguments}
        stages = (Stage(stage.name, substitute(stage.parent, values), stage.instructions) for stage in self.stages)
        return Dockerfile({}, tuple(stages))

    def cut_to(self, target: str, built: Mapping[str, str]) -> "Dockerfile":
        """The stages that `target` needs, with those in `built` replaced by the images made of them."""
        wanted = {target}
        kept: list[Stage] = []
        for stage in reversed(self.stages):
            if stage.name in wanted:
                renamed = replace_sources(stage, built)
                wanted |= {renamed.parent, *renamed.sources()}
                kept.append(renamed)
        return Dockerfile({}, tuple(reversed(kept)))

    def context_paths(self) -> list[str]:
        return sorted({path for stage in self.stages for path in stage.context_paths()})

    def text(self) -> str:
        blocks = ("\n".join([f"FROM {stage.parent} AS {stage.name}", *stage.instructions]) for stage in self.stages)
        return "\n\n".join(blocks) + "\n"


def instructions(text: str) -> Iterator[str]:
    joined: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        joined.append(stripped.removesuffix("\\").rstrip())
        if not stripped.endswith("\\"):
            yield " ".join(joined)
            joined = []


def substitute(parent: str, values: Mapping[str, str | None]) -> str:
    def value_of(match: re.Match[str]) -> str:
        value = values.get(match[1])
        if value is None:
            raise DockerfileError(f"FROM {parent}: give a value for the argument {match[1]}")
        return value

    return re.sub(r"\$\{(\w+)\}", value_of, parent)


def replace_sources(stage: Stage, built: Mapping[str, str]) -> Stage:
    def renamed(line: str) -> str:
        match = COPY_FROM.match(line)
        if match is None or match["source"] not in built:
            return line
        return line.replace(f"--from={match['source']} ", f"--from={built[match['source']]} ", 1)

    return Stage(stage.name, built.get(stage.parent, stage.parent), tuple(map(renamed, stage.instructions)))
