"""KEDA without most of its scalers: two of 75 are used here, and the others pull in the clients of every cloud.

The controllers, the executor, the formula, the fallback and the adapter stay as they are.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

MODULE = "github.com/kedacore/keda/v2"
VERSION = "v2.21.0"
CHECKSUM = "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps="
"""Of the module's archive, as Go computes it. go.sum cannot have it, because the trimmed copy is the main module."""

PROGRAMS = ("cmd/operator", "cmd/adapter")
SCALERS = ("metrics_api", "prometheus", "cpu_memory")
"""The two triggers that the operator writes, and what the adapter names in its code."""

_CASE = re.compile(r'\tcase "[\w-]+"')
_NEXT = re.compile(r"\t(case |default:|\})|\t// TRIGGERS-END")
_IMPORT = re.compile(rf'"{re.escape(MODULE)}/([^"]+)"')


class ChangedSourcesError(RuntimeError):
    """The archive is not the one that was pinned."""


def write_sources(target: Path, go: Callable[[Sequence[str]], str]) -> None:
    """Download KEDA, and write the trimmed copy into an empty folder."""
    module = json.loads(go(["mod", "download", "-json", f"{MODULE}@{VERSION}"]))
    if module["Sum"] != CHECKSUM:
        raise ChangedSourcesError(f"{MODULE}@{VERSION} has the checksum {module['Sum']}, and not {CHECKSUM}")
    trim(Path(module["Dir"]), target)


def trim(module: Path, target: Path) -> None:
    for name in ("apis", "cmd", "config", "controllers", "pkg", "version"):
        # Files in Go's cache are read-only, and those of a copy that is replaced must not be.
        shutil.copytree(module / name, target / name, copy_function=shutil.copyfile)
    for test in target.rglob("*_test.go"):
        test.unlink()
    _drop_scalers(target)
    _drop_packages(target)


def _drop_scalers(target: Path) -> None:
    scalers = target / "pkg" / "scalers"
    dropped = [path for path in scalers.glob("*_scaler.go") if path.stem.removesuffix("_scaler") not in SCALERS]
    for path in dropped:
        path.unlink()
    # A scaler that is dropped declares it for all others.
    (scalers / "external_metric_type.go").write_text('package scalers\n\nconst externalMetricType = "External"\n')
    kept = "\n".join(path.read_text() for path in scalers.glob("*.go"))
    builder = target / "pkg" / "scaling" / "scalers_builder.go"
    made = set(re.findall(r"^func (New\w+)\(", kept, re.MULTILINE))
    builder.write_text("".join(_without_cases(builder.read_text().splitlines(keepends=True), made)))


def _without_cases(lines: list[str], made: set[str]) -> Iterable[str]:
    """The switch over all triggers, with the cases whose constructor is still there."""
    index = 0
    while index < len(lines):
        end = index + 1
        if _CASE.match(lines[index]):
            while not _NEXT.match(lines[end]):
                end += 1
            called = re.findall(r"scalers\.(New\w+)\(", "".join(lines[index:end]))
            if not made.issuperset(called):
                index = end
                continue
        yield from lines[index:end]
        index = end


def _drop_packages(target: Path) -> None:
    """Packages that neither program imports: the pins would have to name what they need."""
    reached: set[str] = set()
    waiting = list(PROGRAMS)
    while waiting:
        package = waiting.pop()
        if package not in reached:
            reached.add(package)
            waiting += [
                found for file in (target / package).glob("*.go") for found in _IMPORT.findall(file.read_text())
            ]
    for file in target.rglob("*.go"):
        if str(file.parent.relative_to(target)) not in reached:
            file.unlink()
