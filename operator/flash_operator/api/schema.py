"""Generates the CRD from the models: `python -m flash_operator.api.schema > crds/deepseekflashdeployments.yaml`.

pydantic emits JSON Schema 2020-12, and the API server takes structural OpenAPI 3.0. This module translates one into
the other and raises an error for anything it cannot translate, so that no field silently means something else in the
cluster than in the operator.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from flash_contracts import names
from flash_operator.api.model_rules import MODEL_RULES
from flash_operator.api.rule import Rule
from flash_operator.api.rules import OBJECT_RULES, SPEC_RULES
from flash_operator.api.status import FlashStatus
from flash_operator.api.v1alpha1 import FlashSpec

Schema = dict[str, Any]
Rules = Mapping[str, tuple[Rule, ...]]
Path = tuple[str, ...]

KEPT = (
    "type", "description", "default", "enum", "format", "pattern", "minimum", "maximum",
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "required",
    "x-kubernetes-int-or-string",
)  # fmt: skip
"""Keywords that mean the same in both dialects."""

REFUSED = {
    "prefixItems": "use a model with named fields",
    "uniqueItems": "use a list and a rule",
    "exclusiveMinimum": "use ge",
    "exclusiveMaximum": "use le",
    "multipleOf": "use a rule",
    "oneOf": "a union of types has no structural form",
    "allOf": "merge the models",
}

FORMATS = frozenset({"date-time", "int32", "int64"})
"""Formats that mean the same in both dialects. Kubernetes' `duration`, for example, is Go's and not ISO 8601."""

NOT_RE2 = re.compile(r"\(\?(?:[=!<(>]|P=)|\\[1-9Z]|[+*?}]\+")
"""Syntax of Python's `re` that RE2 lacks: look-around, back-references, conditions, atomic groups, possessive
quantifiers."""

MAP_LISTS = {"conditions": ["type"], "pods": ["uid"], "extraEnv": ["name"], "env": ["name"]}
"""Lists merged by key, so that two writers can share one and no key can occur twice."""

MAX_DEPTH = 12
"""Only a recursive model is deeper."""


class UnsupportedSchemaError(ValueError):
    """A model uses something that a structural schema cannot express. The message names the field."""


def structural(schema: Schema, rules: Rules | None = None) -> Schema:
    """Translate a pydantic schema, and add the rules at their paths. Raises UnsupportedSchemaError."""
    conversion = _Conversion(schema.get("$defs", {}), dict(rules or {}))
    made = conversion.convert(schema, ())
    if conversion.rules:
        raise UnsupportedSchemaError(f"rules for fields that do not exist: {', '.join(conversion.rules)}")
    return made


@dataclass
class _Conversion:
    """Translates one schema. `rules` holds those whose field has not been reached yet."""

    defs: Schema
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict)

    def convert(self, schema: Schema, path: Path) -> Schema:
        schema = self._resolve(schema, path)
        _reject_unsupported(schema, path)
        made = {key: schema[key] for key in KEPT if schema.get(key) is not None}
        if "const" in schema:
            made["enum"] = [schema["const"]]
        if "default" in made:
            # A complete default, because the API server checks it with the CEL rules before it fills in nested
            # defaults. Nulls are left out, because null is no value.
            made["default"] = _without_nulls(made["default"])
        if "description" in made:
            made["description"] = " ".join(made["description"].split())
        return made | self._children(schema, path) | self._validations(path)

    def _children(self, schema: Schema, path: Path) -> Schema:
        made: Schema = {}
        if "properties" in schema:
            children = schema["properties"].items()
            made["properties"] = {name: self.convert(child, (*path, name)) for name, child in children}
        elif schema.get("type") == "object":
            made |= self._map(schema.get("additionalProperties"), path)
        if "items" in schema:
            made["items"] = self.convert(schema["items"], (*path, "[]"))
            if path and path[-1] in MAP_LISTS:
                made |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": MAP_LISTS[path[-1]]}
        return made

    def _map(self, values: Any, path: Path) -> Schema:
        """`dict[str, T]` is a map of T. `dict[str, Any]` is another API's object, and is kept unchanged."""
        if isinstance(values, dict):
            return {"additionalProperties": self.convert(values, (*path, "*"))}
        return {"x-kubernetes-preserve-unknown-fields": True}

    def _validations(self, path: Path) -> Schema:
        rules = self.rules.pop(".".join(path), ())
        return {"x-kubernetes-validations": [rule.to_json() for rule in rules]} if rules else {}

    def _resolve(self, schema: Schema, path: Path) -> Schema:
        """Inline references. `T | None` is an optional T, because the API server treats absent and null alike."""
        if len(path) > MAX_DEPTH:
            raise UnsupportedSchemaError(f"{_dotted(path)}: recursive models cannot be inlined")
        while "anyOf" in schema or "$ref" in schema:
            if "anyOf" in schema:
                inner = _only_choice(schema["anyOf"], path)
            else:
                inner = self.defs[schema["$ref"].removeprefix("#/$defs/")]
            outer = {key: value for key, value in schema.items() if key not in ("anyOf", "$ref")}
            schema = {**inner, **outer}
        return schema


def _only_choice(choices: list[Schema], path: Path) -> Schema:
    non_null = [choice for choice in choices if choice.get("type") != "null"]
    if len(non_null) != 1:
        raise UnsupportedSchemaError(f"{_dotted(path)}: a union of types has no structural form")
    return non_null[0]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    return value


def _reject_unsupported(schema: Schema, path: Path) -> None:
    for objection in _objections(schema):
        raise UnsupportedSchemaError(f"{_dotted(path)}: {objection}")


def _objections(schema: Schema) -> list[str]:
    kind = schema.get("type")
    made = [f"{keyword} has no structural form: {remedy}" for keyword, remedy in REFUSED.items() if keyword in schema]
    if NOT_RE2.search(schema.get("pattern", "")):
        made.append(f"the pattern {schema['pattern']} is not RE2")
    if schema.get("format", "date-time") not in FORMATS:
        made.append(f"the format {schema['format']} means nothing or something else to the API server")
    if kind == "number":
        made.append("floats do not survive a round trip; use an integer with its unit")
    if kind == "string" and not {"enum", "const", "maxLength", "format"} & schema.keys():
        made.append("a string needs a maxLength, or CEL rules become too costly")
    if kind == "array" and "maxItems" not in schema:
        made.append("a list needs a max_length, or CEL rules become too costly")
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict) and "maxProperties" not in schema:
        made.append("a map needs a max_length, or CEL rules become too costly")
    if kind is None and "x-kubernetes-int-or-string" not in schema:
        made.append("it has no type")
    return made


def _dotted(path: Path) -> str:
    return ".".join(path) or "(root)"


COLUMNS = (
    (
        "READY",
        "string",
        '.status.conditions[?(@.type=="Ready")].status',
        "Whether all desired replicas passed and serve",
    ),
    ("REPLICAS", "string", ".status.summary.replicas", "Ready and desired replicas"),
    (
        "TOK/S",
        "integer",
        ".status.summary.decodeTokensPerSecond",
        "Decode speed of the slowest measured replica, in tokens per second",
    ),
    (
        "ACCEPT",
        "integer",
        ".status.summary.acceptancePercent",
        "Lowest measured acceptance of drafted tokens, in percent",
    ),
    ("REASON", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready or not ready"),
    ("UPDATE", "string", ".status.summary.update", "State of the engine update, if there is one"),
    ("AGE", "date", ".metadata.creationTimestamp", "Time since creation"),
)
WIDE_COLUMNS = (
    ("NODES", "string", ".status.summary.nodes", "Nodes of the replicas"),
    ("LINK", "string", ".status.summary.link", "Links between the GPUs of these nodes"),
    ("P2P", "string", ".status.summary.p2p", "Peer-to-peer verdicts for these nodes"),
    ("ROW", "string", ".status.summary.row", "Rows of the flags table in force; * if other flags are called for"),
)
"""Only with `-o wide`."""


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


def _column(column: tuple[str, str, str, str]) -> Schema:
    name, kind, path, text = column
    return {"name": name, "type": kind, "jsonPath": path, "description": text}


def _version() -> Schema:
    spec = structural(FlashSpec.model_json_schema(by_alias=True), {**SPEC_RULES, **MODEL_RULES})
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
        "additionalPrinterColumns": [*map(_column, COLUMNS), *({**_column(c), "priority": 1} for c in WIDE_COLUMNS)],
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": "Serves DeepSeek-V4-Flash on vLLM. A replica is ready once it has proved its speed.",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    # 52, because the Deployment's pods are named NAME-HASH-SUFFIX, and a label value is limited to 63.
                    "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 52}}},
                    "spec": spec,
                    "status": status,
                },
                "x-kubernetes-validations": [rule.to_json() for rule in OBJECT_RULES],
            }
        },
    }


class _PlainDumper(yaml.SafeDumper):
    """Writes equal lists out in full instead of as anchors and aliases, because people read the file and its diffs."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def document() -> str:
    """The CRD as it is committed."""
    text = yaml.dump(crd(), Dumper=_PlainDumper, sort_keys=False, width=120, allow_unicode=True)
    return f"# Generated from operator/flash_operator/api by `make generate`. Do not edit.\n{text}"


if __name__ == "__main__":
    sys.stdout.write(document())
