"""The API reference, made from the models: `python -m flash_operator.api.reference > docs/reference.md`."""

import sys
from typing import Any

from flash_operator.api import names
from flash_operator.api.schema import crd

HEAD = f"""\
<!-- Generated from operator/flash_operator/api by `make generate`. Do not edit. -->
# {names.KIND} ({names.API_VERSION})

Short name `{names.SHORT_NAMES[0]}`. `kubectl explain {names.SHORT_NAMES[0]}.spec` shows the same.
"""


def reference() -> str:
    """The whole page."""
    version = crd()["spec"]["versions"][0]
    root = version["schema"]["openAPIV3Schema"]["properties"]
    sections = [HEAD]
    sections += [f"## {p}\n\n{root[p]['description']}\n\n{_table(root[p], p)}\n" for p in ("spec", "status")]
    sections.append(f"## Rules\n\nThe API server refuses what breaks one of these.\n\n{_rules(root['spec'], 'spec')}")
    return "\n".join(sections)


def _table(schema: dict[str, Any], path: str) -> str:
    rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |", *_rows(schema, path)]
    return "\n".join(rows)


def _rows(schema: dict[str, Any], path: str) -> list[str]:
    rows = []
    for name, child in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        told = child.get("description", "").replace("|", "\\|")
        rows.append(f"| `{where}` | {_type(child)} | {_default(child, name, schema)} | {told} |")
        inner = child.get("items", child)
        rows += _rows(inner, where + ("[]" if "items" in child else ""))
    return rows


def _type(child: dict[str, Any]) -> str:
    if "enum" in child:
        return " \\| ".join(f"`{value}`" for value in child["enum"])
    bounds = [str(child[key]) for key in ("minimum", "maximum") if key in child]
    of = f" of {_type(child['items'])}" if "items" in child else ""
    return f"{child.get('type', 'object')}{of}{' ' + ' to '.join(bounds) if bounds else ''}"


def _default(child: dict[str, Any], name: str, parent: dict[str, Any]) -> str:
    if name in parent.get("required", ()):
        return "required"
    default = child.get("default")
    return "" if default is None or isinstance(default, dict) else f"`{default}`"


def _rules(schema: dict[str, Any], path: str) -> str:
    lines = [f"- `{path}`: {rule['message']}" for rule in schema.get("x-kubernetes-validations", ())]
    for name, child in schema.get("properties", {}).items():
        inner = _rules(child, f"{path}.{name}")
        lines += [inner] if inner else []
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(reference().rstrip() + "\n")
