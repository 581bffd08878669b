"""The committed files are up to date, and the generated CRD keeps its rules."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flash_contracts.flags import derivation
from flash_contracts.verdict_reason import Reason
from flash_operator.api import reference, schema, vocabulary
from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.core.status import conditions
from flash_operator.core.status.spec_condition import SPEC_VALID

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = schema.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.yaml")) if "DeepSeekFlash" in path.read_text()]

COPIES: dict[str, Callable[[], str]] = {
    "crds/deepseekflashdeployments.yaml": schema.document,
    "charts/deepseek-flash-operator/files/deepseekflashdeployments.yaml": schema.document,
    "docs/reference.md": lambda: reference.reference().rstrip() + "\n",
}


@pytest.mark.parametrize("path", COPIES)
def test_the_committed_file_is_what_the_models_make(path: str) -> None:
    assert (ROOT / path).read_text() == COPIES[path](), "run `make generate`"


def parts(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of the CRD, by its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from parts(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from parts(node[key], f"{path}[]")


FIELDS = dict(parts(SCHEMA))
OWN_FIELDS = {path: node for path, node in FIELDS.items() if path.startswith((".spec", ".status"))}


def test_every_field_is_explained() -> None:
    unexplained = [p for p, node in OWN_FIELDS.items() if not node.get("description") and not p.endswith("[]")]
    assert unexplained == []


def test_every_string_list_and_map_is_bounded() -> None:
    """A CEL rule over an unbounded one costs too much, and the API server rejects the whole CRD."""
    bounds = {"string": {"maxLength", "enum"}, "array": {"maxItems"}}
    unbounded = [p for p, node in OWN_FIELDS.items() if not bounds.get(node.get("type", ""), set(node)) & set(node)]
    assert unbounded == []


def test_no_field_is_a_boolean_or_a_float() -> None:
    """A boolean cannot get a third value later, and a float does not survive a round trip."""
    assert [p for p, node in OWN_FIELDS.items() if node.get("type") in ("boolean", "number")] == []


def test_every_pattern_is_valid_re2() -> None:
    patterns = [node["pattern"] for node in OWN_FIELDS.values() if "pattern" in node]
    matched = re.findall(r"matches\('([^']+)'\)", str([n.get("x-kubernetes-validations") for n in FIELDS.values()]))
    assert len(patterns) >= 4
    assert len(matched) >= 3
    assert [p for p in (*patterns, *matched) if schema.NOT_RE2.search(p)] == []


def test_the_scale_subresource_and_the_columns_read_fields_that_exist() -> None:
    version = schema.crd()["spec"]["versions"][0]
    paths = [*version["subresources"]["scale"].values()]
    paths += [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    plain = [path for path in paths if "[?" not in path and not path.startswith(".metadata")]
    assert len(plain) == 11
    assert [path for path in plain if path not in FIELDS] == []


def test_only_metadata_name_and_the_spec_are_required_of_a_user() -> None:
    required = {path: node["required"] for path, node in FIELDS.items() if "required" in node and ".status" not in path}
    assert required == {
        "": ["spec"],
        ".spec": ["model"],
        ".spec.scaling": ["maxReplicas"],
        ".spec.scaling.prometheus": ["address"],
        ".spec.model": ["source"],
        ".spec.model.restoreMtp": ["source"],
        ".spec.engine.extraEnv[]": ["name"],
        ".spec.interconnect.env[]": ["name"],
        ".spec.placement.topologySpread[]": ["topologyKey"],
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_has_only_known_fields(path: Path) -> None:
    """The models ignore unknown fields, so one would be missing from the dump."""
    spec = yaml.safe_load(path.read_text())["spec"]
    assert FlashSpec.model_validate(spec).model_dump(by_alias=True, exclude_unset=True, mode="json") == spec


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_begins_with_a_comment(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_every_condition_is_explained_in_the_order_of_the_checks() -> None:
    assert list(vocabulary.CONDITIONS) == [*conditions.CHAINS, "ScalingActive", SPEC_VALID]


REASON = (
    r"""(?:ConditionState\(\s*"(?:True|False|Unknown)",|Verdict\(|conflict\(|contradict\(flags, facts,)"""
    r"""\s*"([A-Z]\w+)\""""
)


@pytest.mark.parametrize("module", [conditions, derivation], ids=lambda module: module.__name__)
def test_every_reason_in_the_code_is_explained(module: Any) -> None:
    given = set(re.findall(REASON, inspect.getsource(module)))
    assert len(given) >= 5
    assert given - {*Reason, *vocabulary.CONDITION_REASONS} == set()
