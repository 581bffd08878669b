"""The activator in the chart: off by default, restricted, without rights, with arguments that its process accepts."""

from typing import Any

import pytest

from flash_contracts.activation import CONTROL_PORT, FIRST_PORT, PORTS
from flash_operator.activator.settings import ActivatorSettings
from flash_operator.runtime.settings import OperatorSettings
from rendered_chart import only, render

ON = "activator.enabled=true"
NAME = "flash-activator"


def pod_of(*values: str) -> dict[str, Any]:
    pod: dict[str, Any] = only(render(ON, *values), "Deployment", NAME)["spec"]["template"]["spec"]
    return pod


def test_it_is_off_by_default() -> None:
    documents = render("networkPolicy.enabled=true")
    assert [one["metadata"]["name"] for one in documents if "activator" in one["metadata"]["name"]] == []
    (container,) = only(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert OperatorSettings.parse(container["args"]).activator_service == ""


def test_the_operator_is_told_its_service() -> None:
    documents = render(ON)
    (container,) = only(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert OperatorSettings.parse(container["args"]).activator_service == NAME
    service, made = only(documents, "Service", NAME)["spec"], only(documents, "Deployment", NAME)["spec"]
    assert service["clusterIP"] == "None"
    assert service["selector"] == made["selector"]["matchLabels"]
    assert service["selector"].items() <= made["template"]["metadata"]["labels"].items()


def test_it_understands_its_arguments_and_asks_the_operators_service() -> None:
    (container,) = pod_of("activator.maxBodyBytes=20000000", "activator.graceSeconds=300")["containers"]
    assert container["command"] == ["python", "-m", "flash_operator.activator"]
    settings = ActivatorSettings.parse(container["args"])
    service = only(render(ON), "Service", "flash-metrics")
    assert settings.operator_url == f"http://flash-metrics.system.svc:{service['spec']['ports'][0]['port']}"
    (elsewhere,) = pod_of("activator.operatorUrl=http://10.0.0.9:8080")["containers"]
    assert ActivatorSettings.parse(elsewhere["args"]).operator_url == "http://10.0.0.9:8080"
    assert (settings.max_body_bytes, settings.grace_seconds) == (20_000_000, 300.0)
    assert [one["containerPort"] for one in container["ports"]] == [CONTROL_PORT]


def test_it_runs_restricted_and_has_no_rights() -> None:
    documents, pod = render(ON), pod_of()
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    bound = [one for one in documents if one["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    assert NAME not in {subject["name"] for one in bound for subject in one["subjects"]}


def test_the_kubelet_waits_longer_than_streams_may_go_on() -> None:
    pod = pod_of()
    (container,) = pod["containers"]
    settings = ActivatorSettings.parse(container["args"])
    assert pod["terminationGracePeriodSeconds"] > settings.grace_seconds > settings.linger_seconds


def test_a_drain_takes_one_at_a_time_and_a_rollout_starts_one_first() -> None:
    documents = render(ON)
    made, budget = only(documents, "Deployment", NAME)["spec"], only(documents, "PodDisruptionBudget", NAME)["spec"]
    assert made["replicas"] == 2
    assert made["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert (budget["maxUnavailable"], budget["selector"]) == (1, made["selector"])
    single = render(ON, "activator.replicas=1")
    assert [one for one in single if one["kind"] == "PodDisruptionBudget" and one["metadata"]["name"] == NAME] == []


@pytest.mark.parametrize("kind", ["Deployment", "Service", "PodDisruptionBudget"])
def test_its_selector_finds_no_operator_and_the_operators_not_it(kind: str) -> None:
    documents = render(ON)
    operator, activator = only(documents, "Deployment"), only(documents, "Deployment", NAME)
    for name, pods in ((NAME, operator), ("flash-metrics" if kind == "Service" else "flash", activator)):
        selector = only(documents, kind, name)["spec"]["selector"]
        labels = pods["spec"]["template"]["metadata"]["labels"]
        assert not selector.get("matchLabels", selector).items() <= labels.items()


def test_the_network_policy_opens_the_ports_of_deployments() -> None:
    policy = only(render(ON, "networkPolicy.enabled=true"), "NetworkPolicy", NAME)["spec"]
    ((opened,),) = [rule["ports"] for rule in policy["ingress"] if "from" not in rule]
    assert (opened["port"], opened["endPort"]) == (FIRST_PORT, FIRST_PORT + PORTS - 1)
