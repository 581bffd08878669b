"""Writes the chart's README: its values with their defaults and comments, from values.yaml.

    python hack/chart_readme.py > charts/deepseek-flash-operator/README.md

In values.yaml the comment of a value begins with `# --`, stands right before its key, and may go on in further lines.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from rendered_chart import CHART

KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):(?P<rest>.*)$")
BEGINS = re.compile(r"^ *# -- (?P<text>.*)$")
GOES_ON = re.compile(r"^ *# (?P<text>.*)$")

HEAD = """# deepseek-flash-operator

{description}.

<!-- run-by: tests/documentation/test_kubectl_blocks.py::test_the_block_runs -->
```sh
helm install flash charts/deepseek-flash-operator --namespace deepseek-flash-system --create-namespace
```

How it works: [the project's README](../../README.md).

## Values

Generated from `values.yaml` by `make generate`. A value that is misspelt or malformed is refused by its name.

| value | default | what it is |
| --- | --- | --- |
"""


class Value(NamedTuple):
    path: tuple[str, ...]
    text: str


def values_of(text: str) -> Iterator[Value]:
    """Every value with a comment, in the order of the file."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if found := BEGINS.match(line):
            comment = [found["text"]]
        elif comment and (found := GOES_ON.match(line)):
            comment.append(found["text"])
        elif found := KEY.match(line):
            path[len(found["indent"]) // 2 :] = [found["key"]]
            if comment:
                yield Value(tuple(path), " ".join(comment))
            comment = []


def default_of(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


def readme() -> str:
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    description = yaml.safe_load((CHART / "Chart.yaml").read_text())["description"]
    rows = [
        f"| `{'.'.join(value.path)}` | `{json.dumps(default_of(values, value.path))}` | {value.text} |\n"
        for value in values_of(text)
    ]
    return HEAD.format(description=description) + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(readme())
