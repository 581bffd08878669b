"""Translation of pydantic's schema to the API server's: each rule, and each rejection."""

import enum
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, StringConstraints, WithJsonSchema, create_model

from flash_operator.api import ApiModel
from flash_operator.api.rule import Rule
from flash_operator.api.rules import OBJECT_RULES, SPEC_RULES
from flash_operator.api.schema import UnsupportedSchemaError, structural

Text = Annotated[str, StringConstraints(max_length=8)]


class Colour(enum.StrEnum):
    RED = "Red"
    BLUE = "Blue"


class Inner(ApiModel):
    """What it is."""

    some_count: int = 3
    """How many."""


class Tree(ApiModel):
    child: "Tree | None" = None


def of_field(annotation: Any, default: Any = ...) -> dict[str, Any]:
    """The structural schema of one field of this type."""
    model = create_model("Model", __base__=ApiModel, some_field=(annotation, default))
    field: dict[str, Any] = structural(model.model_json_schema(by_alias=True))["properties"]["someField"]
    return field


INNER = {"someCount": {"type": "integer", "description": "How many.", "default": 3}}

REWRITTEN: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "a bounded integer keeps its bounds": (
        Annotated[int, Field(ge=1, le=5)], 2, {"type": "integer", "minimum": 1, "maximum": 5, "default": 2}
    ),
    "a bounded string keeps its bounds": (Text, ..., {"type": "string", "maxLength": 8}),
    "an optional field is its type, without a default": (Text | None, None, {"type": "string", "maxLength": 8}),
    "an enumeration is inlined": (Colour, ..., {"type": "string", "enum": ["Red", "Blue"]}),
    "a literal is an enumeration": (Literal["A", "B"], "A", {"type": "string", "enum": ["A", "B"], "default": "A"}),
    "a constant is an enumeration of one": (Literal["A"], "A", {"type": "string", "enum": ["A"], "default": "A"}),
    "a list keeps its bounds": (
        Annotated[list[Text], Field(min_length=1, max_length=2)],
        ...,
        {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string", "maxLength": 8}},
    ),
    "a map keeps its bounds": (
        Annotated[dict[str, Text], Field(max_length=4)],
        ...,
        {"type": "object", "maxProperties": 4, "additionalProperties": {"type": "string", "maxLength": 8}},
    ),
    "an object of another API is kept unchanged": (
        dict[str, Any], ..., {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    ),
    "a model is inlined, under the names of YAML": (
        Inner, ..., {"type": "object", "description": "What it is.", "properties": INNER}
    ),
    "a model's default is written out whole, without nulls": (
        Inner | None,
        Inner(),
        {"type": "object", "description": "What it is.", "properties": INNER, "default": {"someCount": 3}},
    ),
    "Kubernetes' int-or-string": (
        Annotated[int | str, WithJsonSchema({"x-kubernetes-int-or-string": True})],
        ...,
        {"x-kubernetes-int-or-string": True},
    ),
    "a time": (datetime, ..., {"type": "string", "format": "date-time"}),
}  # fmt: skip


@pytest.mark.parametrize(("annotation", "default", "expected"), REWRITTEN.values(), ids=REWRITTEN.keys())
def test_a_type_becomes_structural(annotation: Any, default: Any, expected: dict[str, Any]) -> None:
    assert of_field(annotation, default) == expected


REFUSED: dict[str, tuple[Any, str]] = {
    "a union": (int | Text, "a union of types"),
    "a decimal, which pydantic takes as number or string": (Decimal, "a union of types"),
    "a float": (float, "use an integer with its unit"),
    "a tuple": (tuple[int, int], "use a model with named fields"),
    "a set": (Annotated[set[Text], Field(max_length=3)], "uniqueItems"),
    "an exclusive bound": (Annotated[int, Field(gt=0)], "use ge"),
    "a duration, which is Go's in Kubernetes": (timedelta, "the format duration"),
    "an unbounded string": (str, "needs a maxLength"),
    "an unbounded list": (list[Text], "a list needs a max_length"),
    "an unbounded map": (dict[str, Text], "a map needs a max_length"),
    "anything at all": (Any, "it has no type"),
    "a recursive model": (Tree, "recursive models"),
    "a look-ahead": (
        Annotated[str, WithJsonSchema({"type": "string", "maxLength": 8, "pattern": "^(?=a)"})], "is not RE2"
    ),
    "a back-reference": (
        Annotated[str, WithJsonSchema({"type": "string", "maxLength": 8, "pattern": r"^(a)\1$"})], "is not RE2"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("annotation", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_type_is_refused_with_the_field_and_the_reason(annotation: Any, message: str) -> None:
    with pytest.raises(UnsupportedSchemaError, match="someField") as refused:
        of_field(annotation)
    assert message in str(refused.value)


def test_a_rule_lands_on_its_field() -> None:
    rule = Rule("self > 1", "write more", ".x")
    made = structural(Inner.model_json_schema(by_alias=True), {"someCount": (rule,)})

    expected = [{"rule": "self > 1", "message": "write more", "fieldPath": ".x"}]
    assert made["properties"]["someCount"]["x-kubernetes-validations"] == expected


def test_a_rule_of_the_whole_spec_is_not_for_changes_of_what_it_does_not_read() -> None:
    """`extraEnv.exists` reads extraEnv, and a field that may be missing is compared only if both have it."""
    rule = Rule("!has(self.a.b) || self.c.exists(v, v.name == 'x') || self.a.b > self.d.e", "m").only_if_changed()
    assert rule.has_optional_old_self
    assert rule.rule == (
        "(oldSelf.hasValue() && has(oldSelf.value().a.b) == has(self.a.b) && (oldSelf.value().c == self.c) && "
        "(!has(self.a.b) || oldSelf.value().a.b == self.a.b) && (oldSelf.value().d.e == self.d.e)) || "
        "(!has(self.a.b) || self.c.exists(v, v.name == 'x') || self.a.b > self.d.e)"
    )


@pytest.mark.parametrize("rules", [SPEC_RULES[""], OBJECT_RULES], ids=["spec", "the object"])
def test_no_rule_about_a_stored_spec_refuses_an_autoscaler_or_a_status(rules: tuple[Rule, ...]) -> None:
    """The API server excuses a stored object only where all below the rule is unchanged, and these are above both."""
    assert all(rule.has_optional_old_self for rule in rules)


def test_a_rule_for_a_field_that_does_not_exist_is_refused() -> None:
    """Otherwise a renamed field would silently lose its rule."""
    with pytest.raises(UnsupportedSchemaError, match="someCuont"):
        structural(Inner.model_json_schema(by_alias=True), {"someCuont": (Rule("self > 1", "write more"),)})
