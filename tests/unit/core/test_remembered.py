"""What is remembered from one plan to the next saves time, and changes no plan."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from builders import SETTINGS, a_flash_object, an_observed
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.remembered import Remembered
from flash_operator.core.observed.snapshot import Observed, PlanSettings
from flash_operator.core.plan import plan
from flash_operator.core.rollout.template_revision import TemplateRevision, render

OTHER_IMAGE = PlanSettings(engine_image="registry.example/flash/engine:2", quantiser_image=SETTINGS.quantiser_image)

SPECS: tuple[dict[str, Any], ...] = (
    {},
    {"replicas": 3},
    {"engine": {"contextTokens": 4096}},
    {"readiness": {"minDecodeTokensPerSecond": 70}},
    {"readiness": {"floor": "Learned"}},
    {"podTemplate": {"spec": {"hostname": "a"}}},
    {"model": {"source": "hf://deepseek-ai/DeepSeek-V4-Flash"}},
    {},
)


def observed(spec: dict[str, Any], remembered: Remembered, settings: PlanSettings = SETTINGS) -> Observed:
    flash = FlashDeployment.from_object(a_flash_object(**spec))
    return replace(an_observed(flash), settings=settings, remembered=remembered)


def test_equal_inputs_are_computed_once() -> None:
    remembered, computed = Remembered(), list[int]()

    def compute(value: int) -> list[int]:
        computed.append(value)
        return [value]

    first = remembered.result("a", {"x": [1]}, lambda: compute(1))
    assert remembered.result("a", {"x": [1]}, lambda: compute(2)) is first
    assert remembered.result("b", {"x": [1]}, lambda: compute(3)) == [3]
    assert remembered.result("a", {"x": [2]}, lambda: compute(4)) == [4]
    assert remembered.result("a", {"x": [1]}, lambda: compute(5)) == [5], "only the last result is kept"
    assert computed == [1, 3, 4, 5]


@pytest.mark.parametrize("settings", [SETTINGS, OTHER_IMAGE], ids=["the same operator", "a newer operator"])
def test_a_changed_deployment_is_planned_as_by_an_operator_that_remembers_nothing(settings: PlanSettings) -> None:
    remembered = Remembered()
    plan(observed({"replicas": 2}, remembered))
    for spec in SPECS:
        for _ in range(2):
            assert plan(observed(spec, remembered, settings)) == plan(observed(spec, Remembered(), settings)), spec


def test_a_second_deployment_of_the_same_name_is_not_taken_for_the_first() -> None:
    """It was deleted and made again: the owner of its children is another one."""
    remembered, again = Remembered(), a_flash_object()
    plan(observed({}, remembered))
    again["metadata"] = {**again["metadata"], "uid": "another"}
    later = replace(observed({}, remembered), flash=FlashDeployment.from_object(again))
    assert {child["metadata"]["ownerReferences"][0]["uid"] for child in plan(later).apply} == {"another"}


def test_a_number_that_is_corrected_to_a_truth_value_is_noticed() -> None:
    """To Python 1 equals True, but not to the API server, which refuses one of them."""
    remembered = Remembered()
    for generation, value in enumerate((1, True, 1)):
        raw = a_flash_object(generation=generation, podTemplate={"spec": {"hostNetwork": value}})
        made = plan(replace(observed({}, remembered), flash=FlashDeployment.from_object(raw)))
        (deployment,) = (child for child in made.apply if child["kind"] == "Deployment")
        assert deployment["spec"]["template"]["spec"]["hostNetwork"] is value


def test_nobody_changes_what_is_remembered() -> None:
    remembered = Remembered()
    first = plan(observed({}, remembered)).apply
    before = copy.deepcopy(first)
    plan(observed({"replicas": 5, "rollout": {"state": "Paused"}}, remembered))
    plan(observed({}, remembered))
    assert json.dumps(first, sort_keys=True) == json.dumps(before, sort_keys=True)


def test_an_unchanged_spec_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = 0

    def counted(*args: Any) -> TemplateRevision:
        nonlocal rendered
        rendered += 1
        return render(*args)

    monkeypatch.setattr("flash_operator.core.rollout.engine_update.render", counted)
    remembered = Remembered()
    for _ in range(3):
        plan(observed({}, remembered))
    assert rendered == 1
