"""Removes secrets from what leaves the cluster in a dump: by the names and forms of flash_contracts, in any object.

Variables are pairs of name and value in an object, arguments are lists, and annotations and ConfigMaps hold JSON in a
string: each is read as what it is.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from flash_contracts.redaction import REDACTED, redact, redact_arguments, secrets_of
from flash_contracts.secrets import is_secret_name
from flash_operator.core.observed.snapshot import RawObject

DROPPED_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"
"""A copy of the whole object."""
ARGUMENTS = ("args", "command", "extraArgs", "arguments")


def known_secrets(objects: Iterable[RawObject]) -> tuple[str, ...]:
    """The values of secret variables and arguments anywhere in the objects, longest first."""
    arguments: list[str] = []
    variables: dict[str, str] = {}
    for at, part in enumerate(part for raw in objects for part in _parts(raw)):
        for key in ARGUMENTS:
            arguments += [str(one) for one in part.get(key) or [] if isinstance(part.get(key), list)]
        name, value = part.get("name"), part.get("value")
        if isinstance(name, str) and isinstance(value, str) and is_secret_name(name):
            variables[f"{at}_{name}"] = value
    return secrets_of(arguments, variables)


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object within, also in strings of JSON."""
    match _opened(value):
        case dict() as found:
            yield found
            for item in found.values():
                yield from _parts(item)
        case list() as found:
            for item in found:
                yield from _parts(item)


def redacted(value: Any, secrets: tuple[str, ...] = ()) -> Any:
    """A value of any structure without secrets, and without the copies of it in its metadata."""
    opened = _opened(value)
    if isinstance(value, str):
        return redact(value, secrets) if opened is value else json.dumps(redacted(opened, secrets))
    if isinstance(value, list):
        return [redacted(item, secrets) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _redacted_field(value, key, secrets) for key in value if key not in ("managedFields", DROPPED_ANNOTATION)
    }


def _redacted_field(owner: dict[str, Any], key: str, secrets: tuple[str, ...]) -> Any:
    value = owner[key]
    if isinstance(value, str):
        named = owner.get("name") if key == "value" else key
        if isinstance(named, str) and is_secret_name(named):
            return REDACTED
    if key in ARGUMENTS and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return [redact(one, secrets) for one in redact_arguments(value)]
    return redacted(value, secrets)


def _opened(value: Any) -> Any:
    """The object or list in a string of JSON; anything else unchanged."""
    if not isinstance(value, str) or value.strip()[:1] not in ("{", "["):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, dict | list) else value
