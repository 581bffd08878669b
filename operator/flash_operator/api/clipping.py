"""Truncates values that are too long for status, so that no observation can make a status invalid.

Names, messages and flags in status come from users, images, nodes and other controllers. The schema's limits protect
the API server; a value beyond a limit is truncated instead of invalidating the whole status.
"""

from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from annotated_types import MaxLen
from pydantic import BaseModel, model_validator
from pydantic.fields import FieldInfo

from flash_operator.api import ApiModel

ELLIPSIS = "..."
GREATEST_INTEGER = (1 << 63) - 1
"""The API server refuses more; a gate can claim any figure."""


class StatusModel(ApiModel):
    """Base of all models of status: strings, lists and integers are cut to their limits."""

    @model_validator(mode="before")
    @classmethod
    def _cut(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        limits = _limits(cls)
        return {name: _clipped(value, *limits.get(name, (None, None))) for name, value in values.items()}


def _clipped(value: Any, limit: int | None, item_limit: int | None) -> Any:
    if isinstance(value, str):
        return value if limit is None or len(value) <= limit else value[: limit - len(ELLIPSIS)] + ELLIPSIS
    if isinstance(value, int):
        return min(max(value, -GREATEST_INTEGER), GREATEST_INTEGER)
    if isinstance(value, list | tuple):
        return [_clipped(item, item_limit, None) for item in value[:limit]]
    return value


@cache
def _limits(model: type[BaseModel]) -> dict[str, tuple[int | None, int | None]]:
    """Greatest length of each field and of its items, by name and by alias."""
    limits = {}
    for name, field in model.model_fields.items():
        limits[name] = limits[field.alias or name] = _limits_of(field)
    return limits


def _limits_of(field: FieldInfo) -> tuple[int | None, int | None]:
    own = _greatest(field.metadata)
    kind = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Annotated:
        kind, *metadata = get_args(kind)
        own = own or _greatest(_constraints(metadata))
    items = get_args(kind)[0] if get_origin(kind) is list else None
    of_items = _greatest(_constraints(get_args(items)[1:])) if get_origin(items) is Annotated else None
    return own, of_items


def _constraints(metadata: Any) -> list[Any]:
    return [part for entry in metadata for part in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]


def _greatest(metadata: list[Any]) -> int | None:
    return next((part.max_length for part in metadata if isinstance(part, MaxLen)), None)
