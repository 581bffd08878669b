"""The chart's NetworkPolicies: who reaches which port of the operators, the gates and the engines.

The rules are evaluated here as a network that enforces them would: a pod that a policy selects is reached only by what
one of its rules allows.
"""

import ipaddress
from dataclasses import dataclass, field
from typing import Any

import pytest

from builders import SETTINGS, a_flash
from flash_contracts.activation import FIRST_PORT
from flash_operator.core.resources.deployment import GATE_PORT, pod_template
from flash_operator.core.resources.engine_args import PORT
from rendered_chart import RELEASE, only, render

NAME_LABEL = "kubernetes.io/metadata.name"
ON = ("networkPolicy.enabled=true", "networkPolicy.deploymentNamespaces={team}")
MONITORING = f"networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.{NAME_LABEL.replace('.', chr(92) + '.')}=mon"
GATEWAY = f"networkPolicy.engineFrom[0].namespaceSelector.matchLabels.{NAME_LABEL.replace('.', chr(92) + '.')}=gateway"
BLOCK = "networkPolicy.engineFrom[0].ipBlock.cidr=10.1.0.0/16"


@dataclass(frozen=True)
class Peer:
    """A pod that connects, or is connected to."""

    namespace: str
    labels: dict[str, str] = field(default_factory=dict)
    address: str = "10.9.0.1"


OPERATOR_LABELS = {"app.kubernetes.io/name": "deepseek-flash-operator", "app.kubernetes.io/instance": RELEASE}
OPERATOR = Peer("flash-system", OPERATOR_LABELS)
ENGINE = Peer("team", pod_template(a_flash(), SETTINGS)["metadata"]["labels"])
LABELLER = Peer("flash-system", {**OPERATOR_LABELS, "app.kubernetes.io/name": "deepseek-flash-labeller"})
ACTIVATOR = Peer("flash-system", {**OPERATOR_LABELS, "app.kubernetes.io/name": "deepseek-flash-activator"})
KEDA, STRANGER, IMPOSTOR = Peer("keda"), Peer("other"), Peer("other", OPERATOR.labels)
PROMETHEUS, ENVOY, OUTSIDE = Peer("mon"), Peer("gateway"), Peer("nowhere", address="10.1.2.3")
HEALTH = "health"
ZERO = (*ON, "activator.enabled=true")
"""At zero, requests arrive at the activator."""


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    exists = [e["key"] for e in selector.get("matchExpressions", []) if e["operator"] == "Exists"]
    assert len(exists) == len(selector.get("matchExpressions", [])), "no other operator is evaluated here"
    return selector.get("matchLabels", {}).items() <= labels.items() and set(exists) <= set(labels)


def is_peer(rule: dict[str, Any], peer: Peer, namespace: str) -> bool:
    if "ipBlock" in rule:
        return ipaddress.ip_address(peer.address) in ipaddress.ip_network(rule["ipBlock"]["cidr"])
    if "namespaceSelector" in rule:
        in_namespace = selects(rule["namespaceSelector"], {NAME_LABEL: peer.namespace})
    else:
        in_namespace = peer.namespace == namespace
    return in_namespace and selects(rule.get("podSelector", {}), peer.labels)


def is_port(rule: dict[str, Any], port: int | str) -> bool:
    first = rule["port"]
    return first == port or (isinstance(port, int) and "endPort" in rule and first <= port <= rule["endPort"])


def reaches(peer: Peer, target: Peer, port: int | str, *values: str) -> bool:
    policies = [d for d in render(*values, namespace="flash-system") if d["kind"] == "NetworkPolicy"]
    about = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == target.namespace and selects(policy["spec"]["podSelector"], target.labels)
    ]
    if not about:
        return True
    rules = [rule for spec in about for rule in spec["ingress"]]
    open_to = [rule for rule in rules if any(is_port(one, port) for one in rule["ports"])]
    return any(
        "from" not in rule or any(is_peer(one, peer, target.namespace) for one in rule["from"]) for rule in open_to
    )


REACH: dict[str, tuple[Peer, Peer, int | str, tuple[str, ...], bool]] = {
    "without policies, anybody a gate": (STRANGER, ENGINE, GATE_PORT, (), True),
    "the operator a gate": (OPERATOR, ENGINE, GATE_PORT, ON, True),
    "another pod a gate": (STRANGER, ENGINE, GATE_PORT, ON, False),
    "a pod with the operator's labels elsewhere a gate": (IMPOSTOR, ENGINE, GATE_PORT, ON, False),
    "monitoring that is not named a gate": (PROMETHEUS, ENGINE, GATE_PORT, ON, False),
    "monitoring that is named a gate": (PROMETHEUS, ENGINE, GATE_PORT, (*ON, MONITORING), True),
    "a neighbour in its namespace a gate": (Peer("team"), ENGINE, GATE_PORT, (*ON, MONITORING), False),
    "anybody an engine": (STRANGER, ENGINE, PORT, ON, True),
    "a gateway that is named an engine": (ENVOY, ENGINE, PORT, (*ON, GATEWAY), True),
    "another pod an engine of a gateway": (STRANGER, ENGINE, PORT, (*ON, GATEWAY), False),
    "monitoring an engine of a gateway": (PROMETHEUS, ENGINE, PORT, (*ON, GATEWAY, MONITORING), True),
    "an address that is named an engine": (OUTSIDE, ENGINE, PORT, (*ON, BLOCK), True),
    "another address an engine": (STRANGER, ENGINE, PORT, (*ON, BLOCK), False),
    "anybody another port of a replica": (STRANGER, ENGINE, 22, ON, False),
    "an engine in a namespace that is not named": (STRANGER, Peer("b", ENGINE.labels), GATE_PORT, ON, True),
    "another pod of a team": (STRANGER, Peer("team", {"app": "web"}), 80, ON, True),
    "KEDA the demand": (KEDA, OPERATOR, HEALTH, ON, True),
    "KEDA the demand, if only others are named": (KEDA, OPERATOR, HEALTH, (*ON, MONITORING), False),
    "a standby the leader's demand": (OPERATOR, OPERATOR, HEALTH, (*ON, MONITORING), True),
    "another pod the operator's metrics": (STRANGER, OPERATOR, HEALTH, (*ON, MONITORING), False),
    "another port of the operator": (STRANGER, OPERATOR, 22, ON, False),
    "the activator an engine of a gateway": (ACTIVATOR, ENGINE, PORT, (*ZERO, GATEWAY), True),
    "one that is not installed an engine of a gateway": (ACTIVATOR, ENGINE, PORT, (*ON, GATEWAY), False),
    "the activator a gate": (ACTIVATOR, ENGINE, GATE_PORT, ZERO, False),
    "the activator the operator's routes": (ACTIVATOR, OPERATOR, HEALTH, (*ZERO, MONITORING), True),
    "the operator what the activator holds": (OPERATOR, ACTIVATOR, HEALTH, (*ZERO, MONITORING), True),
    "another pod what the activator holds": (STRANGER, ACTIVATOR, HEALTH, ZERO, False),
    "monitoring that is named the activator": (PROMETHEUS, ACTIVATOR, HEALTH, (*ZERO, MONITORING), True),
    "anybody a deployment at zero": (STRANGER, ACTIVATOR, FIRST_PORT, ZERO, True),
    "a gateway that is named a deployment at zero": (ENVOY, ACTIVATOR, FIRST_PORT + 999, (*ZERO, GATEWAY), True),
    "another pod a deployment at zero of a gateway": (STRANGER, ACTIVATOR, FIRST_PORT, (*ZERO, GATEWAY), False),
    "anybody another port of the activator": (STRANGER, ACTIVATOR, 22, ZERO, False),
    "anybody the labeller": (OPERATOR, LABELLER, 80, ON, False),
}


@pytest.mark.test  # each starts helm
@pytest.mark.parametrize(("peer", "target", "port", "values", "allowed"), REACH.values(), ids=REACH.keys())
def test_who_reaches(peer: Peer, target: Peer, port: int | str, values: tuple[str, ...], *, allowed: bool) -> None:
    assert reaches(peer, target, port, *values) is allowed


def test_policies_are_opt_in_and_those_of_the_labeller_go_with_it() -> None:
    assert [d for d in render() if d["kind"] == "NetworkPolicy"] == []
    kinds = [d["kind"] for d in render("networkPolicy.enabled=true", "labeller.enabled=false")]
    assert kinds.count("NetworkPolicy") == 1


def test_ports_and_labels_here_are_the_charts() -> None:
    documents = render("activator.enabled=true")
    operator = only(documents, "Deployment")["spec"]["template"]
    labeller = only(documents, "DaemonSet", f"{RELEASE}-labeller")["spec"]["template"]
    (container,) = operator["spec"]["containers"]
    assert [port["name"] for port in container["ports"]] == [HEALTH]
    assert OPERATOR.labels.items() <= operator["metadata"]["labels"].items()
    assert LABELLER.labels.items() <= labeller["metadata"]["labels"].items()
    activator = only(documents, "Deployment", f"{RELEASE}-activator")["spec"]["template"]
    assert ACTIVATOR.labels.items() <= activator["metadata"]["labels"].items()
