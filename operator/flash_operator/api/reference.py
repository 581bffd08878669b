"""Generates the API reference from the models: `python -m flash_operator.api.reference > docs/reference.md`."""

import sys
from collections.abc import Mapping
from typing import Any

from flash_contracts import names
from flash_contracts.verdict_reason import MEANINGS
from flash_operator.api import vocabulary
from flash_operator.api.argument_rules import GRAPH_SIZES, OWNED_ARGUMENTS, SIZES
from flash_operator.api.schema import crd
from flash_operator.api.variable_rules import EXTRA_VARIABLES, LINK_VARIABLES

HEAD = f"""\
<!-- Generated from operator/flash_operator/api by `make generate`. Do not edit. -->
# {names.KIND} ({names.API_VERSION})

Short name `{names.SHORT_NAMES[0]}`. `kubectl explain {names.SHORT_NAMES[0]}.spec` shows the same.
Terms are in the [glossary](glossary.md).
"""

BOUNDS = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
    ("minProperties", "maxProperties", " keys"),
)


def reference() -> str:
    """The whole page."""
    root = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec, status = (root["properties"][part] for part in ("spec", "status"))
    sections = [HEAD]
    for part, schema in (("spec", spec), ("status", status)):
        sections.append(f"## {part}\n\n{schema['description']}\n\n{_fields(schema, part)}\n")
    sections.append(f"## Conditions\n\n{_meanings('condition', vocabulary.CONDITIONS)}\n")
    sections.append(
        "## Reasons\n\nReasons of a replica, from its gate. Conditions have the reason of the worst replica.\n\n"
        f"{_meanings('reason', MEANINGS)}\n\n"
        "Reasons of the deployment as a whole. The scheduler's and the kubelet's own reasons are copied unchanged.\n\n"
        f"{_meanings('reason', vocabulary.CONDITION_REASONS)}\n"
    )
    rules = "\n".join([*_rules(root, "metadata.name", deep=False), *_rules(spec, "spec")])
    sections.append(f"## Rules\n\nThe API server rejects an object that breaks one of these rules.\n\n{rules}")
    sections.append(_refused())
    return "\n".join(sections)


REFUSED_TABLES = {
    "Arguments that `spec.engine.extraArgs` refuses": OWNED_ARGUMENTS,
    "Arguments that it refuses unless `spec.engine.profile` is `Custom`": SIZES | GRAPH_SIZES,
    "Variables that `spec.engine.extraEnv` refuses": EXTRA_VARIABLES,
    "Variables that `spec.interconnect.env` refuses": LINK_VARIABLES,
}
"""What one rule refuses by a table, by the heading."""


def _refused() -> str:
    parts = []
    for heading, table in REFUSED_TABLES.items():
        groups = {why: [name for name in table if table[name] == why] for why in table.values()}
        rows = [f"| {', '.join(f'`{name}`' for name in names)} | {why} |" for why, names in groups.items()]
        parts.append("\n".join([f"\n### {heading}\n", "| name | why, or what to do |", "| --- | --- |", *rows]))
    return "\n".join(parts)


def _fields(schema: dict[str, Any], path: str) -> str:
    rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |", *_rows(schema, path)]
    return "\n".join(rows)


def _rows(schema: dict[str, Any], path: str) -> list[str]:
    rows = []
    for name, child in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        description = child.get("description", "").replace("|", "\\|")
        rows.append(f"| `{where}` | {_type(child)} | {_default(child, name, schema)} | {description} |")
        inner = child.get("items", child)
        rows += _rows(inner, where + ("[]" if "items" in child else ""))
    return rows


def _type(child: dict[str, Any]) -> str:
    """The type with its bounds, as in `integer, 1 to 8`."""
    if "enum" in child:
        return " \\| ".join(f"`{value}`" for value in child["enum"])
    inner = child.get("items") or child.get("additionalProperties")
    kind = "map" if "additionalProperties" in child else child.get("type", "quantity")
    bounds = [_bound(child, *bound) for bound in BOUNDS]
    pattern = child.get("pattern", "").replace("|", "\\|") if kind != "quantity" else ""
    parts = [kind + (f" of {_type(inner)}" if inner else ""), *filter(None, bounds), f"`{pattern}`" if pattern else ""]
    return ", ".join(filter(None, parts))


def _bound(child: dict[str, Any], lowest: str, highest: str, unit: str) -> str:
    low, high = child.get(lowest), child.get(highest)
    if low is None and high is None:
        return ""
    if high is None:
        return f"at least {low}{unit}"
    return f"{low} to {high}{unit}" if low is not None else f"at most {high}{unit}"


def _default(child: dict[str, Any], name: str, parent: dict[str, Any]) -> str:
    if name in parent.get("required", ()):
        return "required"
    default = child.get("default")
    return "" if default in (None, "") or isinstance(default, dict) else f"`{default}`"


def _meanings(kind: str, meanings: Mapping[str, str]) -> str:
    rows = [f"| `{word}` | {meaning} |" for word, meaning in meanings.items()]
    return "\n".join([f"| {kind} | meaning |", "| --- | --- |", *rows])


def _rules(schema: dict[str, Any], path: str, *, deep: bool = True) -> list[str]:
    lines = [f"- `{path}`: {rule['message']}" for rule in schema.get("x-kubernetes-validations", ())]
    if deep:
        for name, child in schema.get("properties", {}).items():
            lines += _rules(child, f"{path}.{name}")
        lines += _rules(schema["items"], f"{path}[]") if "items" in schema else []
    return lines


if __name__ == "__main__":
    sys.stdout.write(reference().rstrip() + "\n")
