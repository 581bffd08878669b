"""What the chart makes for a monitoring stack: only what is asked for, because its CRDs may be missing."""

import re
from typing import Any

import pytest
import yaml

from builders import a_flash, an_observed
from dashboards.vllm_metrics import NAMES
from flash_engine.gate.gate_metrics import DEFINITIONS
from flash_operator.core.plan import desired_children
from rendered_chart import CHART, only, render

MONITORS = "metrics.podMonitors.enabled=true"
KINDS = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def test_by_default_nothing_needs_the_crds_of_the_prometheus_operator() -> None:
    documents = render()
    assert not {document["kind"] for document in documents} & KINDS
    assert not [name for name in of_kind(documents, "ConfigMap") if "dashboard" in name]


def test_the_monitors_find_the_ports_that_engine_pods_have() -> None:
    deployment = next(child for child in desired_children(an_observed(a_flash())) if child["kind"] == "Deployment")
    pod = deployment["spec"]["template"]
    containers = [*pod["spec"]["containers"], *pod["spec"]["initContainers"]]
    ports = {port["name"] for container in containers for port in container.get("ports", [])}
    monitors = of_kind(render(MONITORS), "PodMonitor")
    assert set(monitors) == {"flash-engines", "flash-gates"}
    for monitor in monitors.values():
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] in ports
        (wanted,) = monitor["spec"]["selector"]["matchExpressions"]
        assert wanted["key"] in pod["metadata"]["labels"]
        assert {"deployment_namespace", "deployment_name"} < {one["targetLabel"] for one in endpoint["relabelings"]}


@pytest.mark.parametrize(
    ("monitor", "kept", "dropped"),
    [
        ("flash-engines", NAMES, {"flash_operator_leader", "flash_gate_ready", "up"}),
        ("flash-gates", {one.name for one in DEFINITIONS}, {"flash_operator_leader", "vllm:num_requests_running"}),
    ],
)
def test_a_pod_of_a_tenant_can_forge_no_metric_of_the_operator(monitor: str, kept: set[str], dropped: set[str]) -> None:
    """Whoever may make a pod may give it the label of an engine."""
    made = only(render(MONITORS), "PodMonitor", monitor)["spec"]
    (endpoint,) = made["podMetricsEndpoints"]
    (rule,) = endpoint["metricRelabelings"]
    assert (rule["sourceLabels"], rule["action"]) == (["__name__"], "keep")
    assert {name for name in kept | dropped if re.fullmatch(rule["regex"], name)} == kept
    assert 0 < made["sampleLimit"] <= 10_000
    assert not endpoint.get("honorLabels"), "the pod's own deployment_name would win"


def test_the_monitors_look_where_the_operator_does() -> None:
    everywhere = only(render(MONITORS), "PodMonitor", "flash-gates")
    watched = only(render(MONITORS, "watchNamespace=team"), "PodMonitor", "flash-gates")
    assert everywhere["spec"]["namespaceSelector"] == {"any": True}
    assert watched["spec"]["namespaceSelector"] == {"matchNames": ["team"]}


def test_the_activator_is_monitored_where_there_is_one() -> None:
    documents = render(MONITORS, "activator.enabled=true")
    monitor = only(documents, "PodMonitor", "flash-activator")
    pod = only(documents, "Deployment", "flash-activator")["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


def test_the_rules_are_those_that_promtool_tests_with_the_runbooks_address() -> None:
    url = "https://docs.example.org/runbooks"
    made = only(render("metrics.rules.enabled=true", f"metrics.rules.runbookUrl={url}/"), "PrometheusRule")
    source = (CHART / "files/rules.yaml").read_text()
    assert made["spec"] == yaml.safe_load(source.replace("docs/runbooks", url))
    assert "docs.example.org/runbooks/FlashDraftDead.md" in str(made)
    plain = only(render("metrics.rules.enabled=true"), "PrometheusRule")
    assert plain["spec"] == yaml.safe_load(source)


@pytest.mark.parametrize("part", ["podMonitors", "rules", "dashboards"])
def test_a_stack_finds_them_by_its_labels(part: str) -> None:
    documents = render(f"metrics.{part}.enabled=true", f"metrics.{part}.labels.release=prom")
    found = [one for one in documents if (one["metadata"].get("labels") or {}).get("release") == "prom"]
    assert found
    assert all(one["kind"] in {*KINDS, "ConfigMap"} for one in found)
