"""Reading raw objects, also those written for an older or newer CRD."""

from typing import Any

import pytest
from pydantic import ValidationError

from builders import a_flash, a_flash_object
from flash_operator.api.status import PodStatus
from flash_operator.api.v1alpha1 import DEFAULT_ANSWER, EnvVar, FlashDeployment, FlashSpec, GoldenSpec


def test_a_minimal_object_gets_all_defaults() -> None:
    flash = a_flash()
    assert (flash.name, flash.namespace, flash.uid, flash.generation) == ("flash", "team", "uid-of-flash", 1)
    assert flash.spec == FlashSpec(model={"source": "pvc://models/v4"})  # type: ignore[arg-type]
    assert flash.spec.readiness.min_decode_tokens_per_second == 60


def test_fields_of_a_newer_crd_are_ignored_at_every_depth() -> None:
    raw = a_flash_object(tomorrow=1, engine={"turbo": True, "extraEnv": [{"name": "A", "valueFrom": {}}]})
    raw["tomorrow"] = raw["metadata"]["tomorrow"] = {}
    raw["status"] = {"tomorrow": 1}
    assert FlashDeployment.from_object(raw).spec == a_flash(engine={"extraEnv": [{"name": "A"}]}).spec


UNREADABLE: dict[str, dict[str, Any]] = {
    "no model": {"model": None},
    "a string for a number": {"replicas": "two"},
    "an unknown profile": {"engine": {"profile": "Fast"}},
}


@pytest.mark.parametrize("spec", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_unreadable_spec_raises(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FlashDeployment.from_object(a_flash_object(**spec))


def test_a_stored_spec_beyond_the_bounds_of_today_is_read_as_it_is() -> None:
    spec: dict[str, Any] = {
        "model": {"source": "s3://bucket/v4"},
        "replicas": 100,
        "engine": {"extraArgs": ["--seed=1"] * 40, "extraEnv": [{"name": "1A"}]},
        "readiness": {"golden": {"prompt": ""}},
    }
    read = FlashDeployment.from_object(a_flash_object(**spec)).spec
    assert read.model_dump(by_alias=True, exclude_unset=True) == spec
    assert isinstance(read.engine.extra_env[0], EnvVar)


def test_a_stored_spec_within_the_bounds_is_what_the_models_make_of_it() -> None:
    spec = {"model": {"source": "pvc://a/b"}, "engine": {"profile": "Throughput", "extraEnv": [{"name": "A"}]}}
    assert FlashSpec.stored(spec) == FlashSpec.model_validate(spec)


EXPECTED: dict[str, tuple[dict[str, str], str | None]] = {
    "the answer to the default question": ({}, DEFAULT_ANSWER),
    "the user's answer to the default question": ({"expect": "forty-two"}, "forty-two"),
    "nothing for a question of the user's own": ({"prompt": "2 + 2?"}, None),
    "the user's answer to the user's question": ({"prompt": "2 + 2?", "expect": "4"}, "4"),
}


@pytest.mark.parametrize(("golden", "expected"), EXPECTED.values(), ids=EXPECTED.keys())
def test_the_golden_question_expects(golden: dict[str, str], expected: str | None) -> None:
    assert GoldenSpec.model_validate(golden).expected == expected


def test_p2p_keeps_its_name_in_yaml() -> None:
    """pydantic's camel case would make it p2P."""
    pod = PodStatus(name="a", uid="u", reason="Passed", p2p="verified", flags_origin="annotation")
    assert {"p2p", "flagsOrigin"} <= pod.model_dump(by_alias=True).keys()
    assert PodStatus.model_validate({"name": "a", "uid": "u", "reason": "Passed", "p2p": "hang"}).p2p == "hang"


def test_a_read_object_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        a_flash().spec.replicas = 2
