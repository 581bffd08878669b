"""The CRD, made from the models: `python -m flash_operator.api.schema > crds/deepseekflashdeployments.yaml`.

pydantic emits JSON Schema 2020-12; the API server takes structural OpenAPI 3.0. What differs is rewritten here, and
what cannot be rewritten is refused, so that no field silently means something else in the cluster than it does in
the operator.
"""

import re
import sys
from typing import Any

import yaml

from flash_operator.api import names, rules
from flash_operator.api.v1alpha1 import FlashSpec, FlashStatus

Schema = dict[str, Any]

KEPT = (
    "type", "description", "default", "enum", "format", "pattern", "minimum", "maximum",
    "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "required",
)  # fmt: skip
"""Keywords that mean the same on both sides."""

NOT_RE2 = re.compile(r"\(\?[=!<]|\\[1-9]")
"""Look-around and back-references: Python has them, the API server's RE2 does not."""

MAP_LISTS = {"conditions": ["type"], "pods": ["uid"], "extraEnv": ["name"], "env": ["name"]}
"""Lists that are merged by key, so that two writers can share one, and a name cannot come twice."""


class UnsupportedSchemaError(ValueError):
    """A model uses something that the API server cannot express; the message says where."""


def structural(schema: Schema) -> Schema:
    """A pydantic schema as a structural one. Raises UnsupportedSchemaError."""
    return _convert(schema, schema.get("$defs", {}), ())


def _convert(schema: Schema, defs: Schema, path: tuple[str, ...]) -> Schema:
    schema = _resolve(schema, defs, path)
    _refuse(schema, path)
    made = {key: schema[key] for key in KEPT if key in schema and schema[key] is not None}
    if "default" in made:
        # Whole, for the server judges a default by the CEL rules before it fills in the defaults inside.
        made["default"] = _without_nulls(made["default"])
    if "description" in made:
        made["description"] = " ".join(made["description"].split())
    if "properties" in schema:
        made["properties"] = {
            name: _convert(child, defs, (*path, name)) for name, child in schema["properties"].items()
        }
    elif made.get("type") == "object":
        made |= _map(schema.get("additionalProperties"), defs, path)
    if "items" in schema:
        made["items"] = _convert(schema["items"], defs, (*path, "[]"))
        if path and path[-1] in MAP_LISTS:
            made |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": MAP_LISTS[path[-1]]}
    validations = rules.RULES.get(".".join(path))
    if validations:
        made["x-kubernetes-validations"] = [rule.document() for rule in validations]
    return made


def _resolve(schema: Schema, defs: Schema, path: tuple[str, ...]) -> Schema:
    """Inline references; `T | None` is an optional T, for absent and null are the same to the API server."""
    if len(path) > 12:  # noqa: PLR2004 - no honest schema is deeper
        raise UnsupportedSchemaError(f"{'.'.join(path)}: recursive models cannot be inlined")
    if "anyOf" in schema:
        choices = [choice for choice in schema["anyOf"] if choice.get("type") != "null"]
        if len(choices) != 1:
            raise UnsupportedSchemaError(f"{'.'.join(path)}: a union of types has no structural form")
        schema = {**choices[0], **{key: value for key, value in schema.items() if key != "anyOf"}}
    if "$ref" in schema:
        target = defs[schema["$ref"].removeprefix("#/$defs/")]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
        return _resolve(schema, defs, (*path, "")) if "$ref" in target or "anyOf" in target else schema
    return schema


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    return value


def _map(values: Any, defs: Schema, path: tuple[str, ...]) -> Schema:
    """`dict[str, T]` is a map of T; `dict[str, Any]` is somebody else's object, and is kept as it is."""
    if isinstance(values, dict):
        return {"additionalProperties": _convert(values, defs, (*path, "*"))}
    return {"x-kubernetes-preserve-unknown-fields": True}


def _refuse(schema: Schema, path: tuple[str, ...]) -> None:
    where = ".".join(path) or "(root)"
    for keyword in ("prefixItems", "uniqueItems", "exclusiveMinimum", "exclusiveMaximum", "const", "oneOf", "allOf"):
        if keyword in schema:
            raise UnsupportedSchemaError(f"{where}: {keyword} has no structural form")
    if NOT_RE2.search(schema.get("pattern", "")):
        raise UnsupportedSchemaError(f"{where}: the pattern {schema['pattern']} is not RE2")
    if schema.get("type") == "number":
        raise UnsupportedSchemaError(f"{where}: floats do not survive a round trip; use an integer with its unit")
    if schema.get("type") == "string" and "enum" not in schema and "maxLength" not in schema:
        raise UnsupportedSchemaError(f"{where}: a string needs a maxLength, or CEL rules become too costly")


COLUMNS = (
    ("READY", "string", '.status.conditions[?(@.type=="Ready")].status', "Every wanted replica has proved its speed"),
    ("REPLICAS", "string", ".status.summary.replicas", "Ready of wanted"),
    ("TOK/S", "integer", ".status.summary.decodeTokensPerSecond", "Measured decode speed of the slowest replica"),
    ("ACCEPT", "integer", ".status.summary.acceptancePercent", "Measured acceptance of drafts in percent"),
    ("REASON", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready or not"),
    ("AGE", "date", ".metadata.creationTimestamp", "Time since it was made"),
)


def crd() -> Schema:
    """The whole CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": names.LIST_KIND,
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": list(names.SHORT_NAMES),
                "categories": ["deepseek-flash"],
            },
            "versions": [_version()],
        },
    }


def _version() -> Schema:
    spec = structural(FlashSpec.model_json_schema(by_alias=True))
    status = structural(FlashStatus.model_json_schema(by_alias=True))
    return {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "description": told} for name, kind, path, told in COLUMNS
        ],
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": "Serves DeepSeek-V4-Flash; a replica is ready when it has proved to be fast.",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    # 52: the Deployment's pods are named NAME-HASH-SUFFIX, and a label value ends at 63.
                    "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 52}}},
                    "spec": spec,
                    "status": status,
                },
            }
        },
    }


def document() -> str:
    """The CRD as it is committed."""
    text = yaml.safe_dump(crd(), sort_keys=False, width=120, allow_unicode=True)
    return f"# Generated from operator/flash_operator/api by `make generate`. Do not edit.\n{text}"


if __name__ == "__main__":
    sys.stdout.write(document())
