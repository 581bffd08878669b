"""docs/exposure.md and its examples name what a deployment has: its pods' labels, its ports, its Service, its probe."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import SETTINGS, a_flash
from flash_contracts.names import DEPLOYMENT_LABEL
from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.core.mtp_restore.job import restore_job
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.deployment import GATE_PORT, pod_template
from flash_operator.core.resources.service import service

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/exposure.md").read_text()
(SNIPPET,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)

FLASH = a_flash("flash")
TEMPLATE = pod_template(FLASH, SETTINGS)
LABELS = TEMPLATE["metadata"]["labels"]
(ENGINE,) = TEMPLATE["spec"]["containers"]


def example(name: str, kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((ROOT / "examples" / name).read_text())
    found: dict[str, Any] = next(document for document in documents if document["kind"] == kind)
    return found


POOL = example("inference-pool.yaml", "InferencePool")


def test_the_pool_selects_the_engine_pods_of_its_deployment_and_no_others() -> None:
    wanted = POOL["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= LABELS.items()
    others = pod_template(a_flash("other"), SETTINGS)["metadata"]["labels"]
    assert not wanted.items() <= others.items()
    restoring = a_flash("flash", model={"source": "pvc://models/v4", "restoreMtp": {"source": "pvc://models/official"}})
    assert restoring.spec.model.restore_mtp is not None
    job = restore_job(restoring, restoring.spec.model.restore_mtp, SETTINGS)
    assert DEPLOYMENT_LABEL not in job["spec"]["template"]["metadata"]["labels"]


def test_the_pool_has_the_port_of_the_engine_and_not_that_of_the_gate() -> None:
    engine = [port["containerPort"] for port in ENGINE["ports"]]
    assert [port["number"] for port in POOL["spec"]["targetPorts"]] == engine
    assert GATE_PORT not in engine
    assert f"8000, the engine's. {GATE_PORT} is the gate's" in PAGE


def test_ready_is_the_verdict_of_the_gate_alone() -> None:
    """A picker takes ready pods. A pod is Ready once its containers are, and one without a probe is when it runs."""
    containers: list[RawObject] = [*TEMPLATE["spec"]["initContainers"], *TEMPLATE["spec"]["containers"]]
    probed = {
        container["name"]: container["readinessProbe"] for container in containers if "readinessProbe" in container
    }
    assert list(probed) == ["gate"]
    assert probed["gate"]["httpGet"]["path"] == "/readyz"
    assert "readinessGates" not in TEMPLATE["spec"]


def test_the_routes_lead_to_the_service_and_the_pool() -> None:
    made = service(FLASH)
    (to_service,) = example("http-route.yaml", "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    (port,) = made["spec"]["ports"]
    assert to_service == {"name": made["metadata"]["name"], "port": port["port"]}
    (to_pool,) = example("inference-pool.yaml", "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    group = POOL["apiVersion"].partition("/")[0]
    assert to_pool == {"group": group, "kind": POOL["kind"], "name": POOL["metadata"]["name"]}


@pytest.mark.parametrize("name", ["http-route.yaml", "inference-pool.yaml"])
def test_only_the_api_is_let_through(name: str) -> None:
    """/metrics and others answer without a key."""
    (rule,) = example(name, "HTTPRoute")["spec"]["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/v1"}}]


def test_the_label_of_the_page_is_set_by_the_user_only() -> None:
    spec = yaml.safe_load(SNIPPET)["spec"]
    ours = FlashSpec.model_validate({"model": {"source": "pvc://a/b"}, **spec}).pod_metadata.labels
    assert ours == {"llm-d.ai/engine-type": "vllm"}
    assert not ours.keys() & LABELS.keys(), "a new default label would be an engine update for every deployment"
