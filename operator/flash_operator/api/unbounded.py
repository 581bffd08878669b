"""Validates a model without the bounds of its fields: the lengths, sizes and patterns that the CRD checks.

The API server checks a spec when it is written. One that was stored under an older CRD may be longer, greater or of
another pattern than the CRD of today allows, and stays. The operator has to serve it too (docs/spec.md).
"""

from functools import partial
from typing import Any

from pydantic import BaseModel
from pydantic_core import SchemaValidator, core_schema

BOUNDS = frozenset({"max_length", "min_length", "pattern", "ge", "le", "gt", "lt", "multiple_of"})


def unbounded(model: type[BaseModel]) -> SchemaValidator:
    """A validator that makes instances of this model. It still refuses wrong types and unknown choices."""
    return SchemaValidator(
        _without_bounds(model.__pydantic_core_schema__), core_schema.CoreConfig(validate_by_name=True)
    )


def _without_bounds(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_bounds(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "model":
        # Of a schema for a class pydantic uses the validator that the class has already, with its bounds.
        construct = partial(_constructed, schema["cls"])
        return core_schema.no_info_after_validator_function(construct, _without_bounds(schema["schema"]))
    bounds = BOUNDS if isinstance(schema.get("type"), str) else frozenset()
    return {key: _without_bounds(part) for key, part in schema.items() if key not in bounds}


def _constructed(model: type[BaseModel], parts: tuple[dict[str, Any], Any, set[str]]) -> BaseModel:
    values, _, given = parts
    return model.model_construct(_fields_set=given, **values)
