"""GPUs by claims (DRA) on a real API server: the example's claim, and the Deployment that the operator makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import SETTINGS
from cluster_fixtures import ControlPlane
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.resources.deployment import deployment, pod_template

pytestmark = pytest.mark.apiserver

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def refusal(server: ControlPlane, document: dict[str, Any]) -> str:
    arguments = ("apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", "-")
    done = server.kubectl(*arguments, stdin=json.dumps(document), check=False)
    return done.stderr if done.returncode else ""


def made_of(example: dict[str, Any]) -> dict[str, Any]:
    metadata = {**example["metadata"], "namespace": "default", "uid": "uid-of-flash"}
    flash = FlashDeployment.from_object({**example, "metadata": metadata})
    return deployment(flash, pod_template(flash, SETTINGS))


def test_the_claim_and_the_engine_that_has_it_are_taken(api_server: ControlPlane) -> None:
    template = yaml.safe_load((EXAMPLES / "claimed-gpus-template.yaml").read_text())
    example = yaml.safe_load((EXAMPLES / "claimed-gpus.yaml").read_text())
    assert refusal(api_server, template) == ""
    (claim,) = example["spec"]["podTemplate"]["spec"]["resourceClaims"]
    assert claim["resourceClaimTemplateName"] == template["metadata"]["name"]
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"]["count"] == 2

    made = made_of(example)
    assert refusal(api_server, made) == ""
    (engine,) = made["spec"]["template"]["spec"]["containers"]
    assert "limits" not in engine["resources"]


def test_a_claim_that_the_pod_does_not_have_is_refused(api_server: ControlPlane) -> None:
    example = yaml.safe_load((EXAMPLES / "claimed-gpus.yaml").read_text())
    del example["spec"]["podTemplate"]["spec"]["resourceClaims"]
    assert "resources.claims[0]" in refusal(api_server, made_of(example))
