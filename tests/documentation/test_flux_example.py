"""Flux's health expressions, in the CEL of a real API server, on what the operator writes into status."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster_fixtures import ControlPlane
from crd_stub import a_crd_stub
from flash_contracts.names import API_VERSION, KIND
from flash_situations import all_situations
from rendered_chart import bundle
from waiting import eventually

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "flux"
SITUATIONS = all_situations()
PHASES = ("inProgress", "failed", "current")
"""In the order in which Flux asks."""

API = "admissionregistration.k8s.io/v1"
NAME = "health.example.org"
HOLDERS = a_crd_stub("Holder", "example.org", "v1", scope="Cluster")
"""A kind that holds a deployment as it is: of a deployment itself the API server would drop the status."""

EXPECTED = {
    "it serves": "current",
    "one of two is degraded and serves": "current",
    "it loads": "waits",
    "it is slow": "failed",
    "its drafts are dead": "failed",
    "no node has free GPUs": "waits",
    "a quota refuses its pods": "failed",
    "a person set no replicas": "current",
    "an autoscaler set no replicas": "current",
    "its rollout is paused": "current",
    "the operator has not seen its spec": "inProgress",
    "it has no status": "inProgress",
}


def expressions() -> dict[str, str]:
    document = yaml.safe_load((EXAMPLES / "deployments.yaml").read_text())
    (check,) = document["spec"]["healthCheckExprs"]
    assert (check["apiVersion"], check["kind"]) == (API_VERSION, KIND)
    return {phase: check[phase] for phase in PHASES}


def policy() -> dict[str, Any]:
    """A policy that refuses every object, with what Flux would say of the deployment in it."""
    asked = {
        phase: re.sub(r"(?<![\w.'])(status|metadata)(?=\.)", r"object.held.\1", e) for phase, e in expressions().items()
    }
    answer = "".join(f"({asked[phase]}) ? '{phase}' : " for phase in PHASES) + "'waits'"
    rule = {"apiGroups": ["example.org"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["holders"]}
    spec = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "false", "messageExpression": f"'it says ' + ({answer})"}],
    }
    return {"apiVersion": API, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": NAME}, "spec": spec}


@pytest.fixture(scope="module")
def server(api_server: ControlPlane) -> Iterator[ControlPlane]:
    binding = {"policyName": NAME, "validationActions": ["Deny"]}
    documents = [
        HOLDERS,
        policy(),
        {"apiVersion": API, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": NAME}, "spec": binding},
    ]
    done = api_server.kubectl("apply", "-f", "-", stdin=bundle(documents))
    assert "Warning" not in done.stderr
    eventually(lambda: said_of(api_server, SITUATIONS["it serves"]) != "", "the policy is in force")
    yield api_server
    api_server.kubectl("delete", "-f", "-", stdin=bundle(documents))


def said_of(server: ControlPlane, deployment: dict[str, Any]) -> str:
    holder = {"apiVersion": "example.org/v1", "kind": "Holder", "metadata": {"name": "one"}, "held": deployment}
    arguments = ("create", "--dry-run=server", "--validate=false", "-f", "-")
    done = server.kubectl(*arguments, stdin=json.dumps(holder), check=False)
    found = re.search(r"it says (\w+)", done.stderr)
    return found[1] if found else ""


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_flux_says_of_a_deployment(name: str, server: ControlPlane) -> None:
    assert said_of(server, SITUATIONS[name]) == EXPECTED[name]


def test_the_release_installs_this_chart() -> None:
    _, release = yaml.safe_load_all((EXAMPLES / "operator.yaml").read_text())
    assert (ROOT / release["spec"]["chart"]["spec"]["chart"] / "Chart.yaml").exists()
