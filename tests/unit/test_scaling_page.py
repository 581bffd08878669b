"""docs/scaling.md: its examples are valid, and it names reasons and metrics that there are."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.api.vocabulary import CONDITION_REASONS
from flash_operator.core.replicas.replica import DELETION_COST
from flash_operator.core.scaling import scaler
from flash_operator.core.scaling.pod_annotations import DO_NOT_DISRUPT, LOCAL_VOLUMES

PAGE = (Path(__file__).resolve().parents[2] / "docs/scaling.md").read_text()
EXAMPLES = [yaml.safe_load(block)["spec"] for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


@pytest.mark.parametrize("spec", EXAMPLES, ids="-".join)
def test_an_example_has_only_known_fields(spec: dict[str, Any]) -> None:
    whole = {"model": {"source": "pvc://a/b"}, **spec}
    assert FlashSpec.model_validate(whole).model_dump(by_alias=True, exclude_unset=True, mode="json") == whole


def test_the_table_explains_reasons_that_there_are() -> None:
    table = PAGE.split("## Is it working?")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = {reason for row in rows for reason in re.findall(r"`([A-Z]\w+)`", row.split("|")[1])}
    assert len(named) >= 12
    assert named <= CONDITION_REASONS.keys()


def test_the_formula_the_metrics_and_the_annotations_are_those_of_the_code() -> None:
    assert scaler.GUARD in PAGE
    names = re.search(r"flash_operator_deployment_\{([\w,]+)\}_replicas", PAGE)
    assert names is not None
    made = {f"flash_operator_deployment_{name}_replicas" for name in names[1].split(",")}
    metrics = {value for name, value in vars(scaler).items() if name.endswith("_METRIC")}
    assert made == metrics
    assert all(key in PAGE for key in (DELETION_COST, DO_NOT_DISRUPT, LOCAL_VOLUMES))
