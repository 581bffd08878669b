"""When a child is written: what counts as drift, and what the API server merely writes in another way."""

from typing import Any

import pytest

from flash_operator.core.resources.drift import needs_apply, with_hash

SAME = {
    "the server's additions": ({"a": 1, "uid": "x"}, {"a": 1}),
    "quantities in another form": ({"cpu": "1", "memory": "2Gi"}, {"cpu": "1000m", "memory": "2048Mi"}),
    "a number for its text": ({"gpu": "2"}, {"gpu": 2}),
    "an absent empty map": ({}, {"nodeSelector": {}}),
    "an absent empty list": ({}, {"args": []}),
    "a named item that others added": ({"env": [{"name": "A"}, {"name": "B"}]}, {"env": [{"name": "A"}]}),
    "named items in another order": ({"env": [{"name": "B"}, {"name": "A"}]}, {"env": [{"name": "A"}, {"name": "B"}]}),
}
DRIFT = {
    "a value that was changed": ({"a": 2}, {"a": 1}),
    "a value that was removed": ({}, {"a": 1}),
    "a quantity that was changed": ({"cpu": "2"}, {"cpu": "1000m"}),
    "a word that looks like a quantity": ({"a": "1Ki"}, {"a": "1k"}),
    "a plain list that grew": ({"args": ["x", "y"]}, {"args": ["x"]}),
    "a plain list in another order": ({"args": ["y", "x"]}, {"args": ["x", "y"]}),
    "a named item that is missing": ({"env": [{"name": "B"}]}, {"env": [{"name": "A"}]}),
    "a named item that was changed": ({"env": [{"name": "A", "value": "2"}]}, {"env": [{"name": "A", "value": "1"}]}),
    "false for nothing": ({}, {"automount": False}),
}


@pytest.mark.parametrize(("live", "desired"), SAME.values(), ids=SAME.keys())
def test_is_no_drift(live: dict[str, Any], desired: dict[str, Any]) -> None:
    assert not needs_apply(desired, live)


@pytest.mark.parametrize(("live", "desired"), DRIFT.values(), ids=DRIFT.keys())
def test_is_drift(live: dict[str, Any], desired: dict[str, Any]) -> None:
    assert needs_apply(desired, live)


def test_a_missing_child_is_created() -> None:
    assert needs_apply({"a": 1}, None)


def test_a_field_that_we_stopped_setting_shows_in_the_stamp() -> None:
    """The live object contains everything that is desired; only its hash shows that it was made from more."""
    before = with_hash({"metadata": {"name": "x"}, "spec": {"a": 1, "b": 2}})
    after = with_hash({"metadata": {"name": "x"}, "spec": {"a": 1}})
    assert needs_apply(after, before)
    assert not needs_apply(before, before)
