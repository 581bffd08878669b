"""The condition SpecValid of a spec that is stored and would not be taken any more."""

from dataclasses import replace

import pytest

from builders import an_observed
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import plan
from flash_operator.core.status.spec_condition import SPEC_VALID, unreadable_status

SAID = {"type": SPEC_VALID, "status": "False", "reason": "SpecRefused", "message": "former words"}


def observed(objection: str | None, *conditions: RawObject) -> Observed:
    return replace(an_observed(live_status={"conditions": list(conditions)}), objection=objection)


CASES: dict[str, tuple[Observed, tuple[str, str] | None]] = {
    "nothing was ever wrong": (observed(""), None),
    "not asked yet": (observed(None), None),
    "the API server objects": (observed("spec.engine: too long"), ("False", "SpecRefused")),
    "corrected": (observed("", SAID), ("True", "SpecAccepted")),
    "said by a former operator, not asked yet": (observed(None, SAID), ("False", "SpecRefused")),
}


@pytest.mark.parametrize(("seen", "expected"), CASES.values(), ids=CASES.keys())
def test_the_condition_where(seen: Observed, expected: tuple[str, str] | None) -> None:
    status = plan(seen).status
    assert status is not None
    found = [condition for condition in status["conditions"] if condition["type"] == SPEC_VALID]
    assert [(condition["status"], condition["reason"]) for condition in found] == ([expected] if expected else [])


def test_what_the_api_server_objects_to_is_in_the_message_and_in_one_event() -> None:
    first = plan(observed("spec.engine: too long"))
    assert first.status is not None
    assert first.status["conditions"][-1]["message"].endswith("until it is corrected: spec.engine: too long")
    assert [event.reason for event in first.events] == ["SpecRefused"]
    again = replace(an_observed(live_status=first.status), objection="spec.engine: too long")
    assert plan(again).events == ()


def test_an_unreadable_spec_leaves_the_rest_of_the_status() -> None:
    ready = {"type": "Ready", "status": "True"}
    live = {"replicas": 2, "conditions": [ready]}
    status = unreadable_status(live, 3, "spec.engine.profile: unknown" + "x" * 5000, "2026-11-24T12:00:00Z")
    assert (status["replicas"], status["conditions"][0]) == (2, ready)
    assert status["conditions"][1]["observedGeneration"] == 3
    assert len(status["conditions"][1]["message"]) == 4096
    assert unreadable_status(status, 3, "spec.engine.profile: unknown" + "x" * 5000, "2027") == status
