"""The chart's README has every value, as values.yaml has it."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from chart_readme import Value, readme, values_of
from rendered_chart import CHART

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def test_the_readme_is_as_generated() -> None:
    assert (CHART / "README.md").read_text() == readme(), "run `make generate`"


def test_every_value_has_a_comment() -> None:
    documented = {value.path for value in values_of((CHART / "values.yaml").read_text())}
    silent = [path for path in leaves(VALUES) if not any(path[: len(known)] == known for known in documented)]
    assert silent == []


def test_a_comment_may_go_on_and_ends_at_its_key() -> None:
    text = "a:\n  # -- One\n  # line\n  b: 1\n  c: 2\n# -- Two\nd: []\n"
    assert list(values_of(text)) == [Value(("a", "b"), "One line"), Value(("d",), "Two")]


@pytest.mark.parametrize("row", ["| `replicas` | `2` |", '| `image.digest` | `""` |', "| `labeller.tolerations` |"])
def test_rows_have_path_and_default(row: str) -> None:
    assert row in readme()
