"""docs/scaling.md: its examples are valid, and it names reasons and metrics that there are."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import SETTINGS, a_flash, a_node, an_unschedulable_pod
from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.api.vocabulary import CONDITION_REASONS
from flash_operator.core.observed.gpu_demand import could_run_on, tolerates
from flash_operator.core.p2p_test.job import P2pTestSettings, p2p_test_job
from flash_operator.core.replicas.replica import DELETION_COST
from flash_operator.core.resources.deployment import pod_template
from flash_operator.core.scaling import scaler
from flash_operator.core.scaling.pod_annotations import DO_NOT_DISRUPT, LOCAL_VOLUMES

PAGE = (Path(__file__).resolve().parents[2] / "docs/scaling.md").read_text()
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
EXAMPLES = [block["spec"] for block in BLOCKS if "spec" in block]


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


def test_the_labeller_and_the_test_of_links_run_on_a_node_with_the_startup_taint_and_engines_do_not() -> None:
    (taint,) = next(block["startupTaints"] for block in BLOCKS if "startupTaints" in block)
    tolerations = next(block["labeller"]["tolerations"] for block in BLOCKS if "labeller" in block)
    node = {**a_node(), "spec": {"taints": [taint]}}
    assert tolerates({"tolerations": tolerations}, node)
    assert tolerates(
        p2p_test_job(node, P2pTestSettings(namespace="system", image="engine:1"))["spec"]["template"]["spec"], node
    )
    assert not tolerates(pod_template(a_flash(), SETTINGS)["spec"], node)


def test_an_engine_that_waits_does_not_keep_the_links_of_a_tainted_node_from_being_tested() -> None:
    (taint,) = next(block["startupTaints"] for block in BLOCKS if "startupTaints" in block)
    waiting = {**an_unschedulable_pod(), "spec": pod_template(a_flash(), SETTINGS)["spec"]}
    assert could_run_on(waiting, a_node())
    assert not could_run_on(waiting, {**a_node(), "spec": {"taints": [taint]}})


def test_the_limit_of_cluster_autoscaler_is_the_grace_period_of_the_drain_that_is_recommended() -> None:
    made = pod_template(a_flash(drain={"timeoutSeconds": 570}), SETTINGS)["spec"]
    assert made["terminationGracePeriodSeconds"] == 600
    assert "`drain.timeoutSeconds` at 570 or below" in PAGE
