"""Every checkpoint whose headers show its fault: status has the message within seconds."""

from pathlib import Path
from typing import Any

import pytest

from broken_checkpoints import BROKEN_CHECKPOINTS, BrokenCheckpoint
from cluster_fixtures import LocalCluster
from e2e_env import apply, get_json, model_claim, wait_until
from flash_contracts.names import API_VERSION, KIND
from image_builder.layout import image_named

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(900)]

REFUSED = [row for row in BROKEN_CHECKPOINTS if row.severity == "refused" and row.code]
CLAIM = "broken"


@pytest.fixture
def broken(e2e_env: LocalCluster, namespace: str, tmp_path: Path) -> dict[str, BrokenCheckpoint]:
    """Checkpoints by the name of their deployment, all on one claim."""
    rows = {f"broken-{number}": row for number, row in enumerate(REFUSED)}
    tmp_path.chmod(0o755)
    for name, row in rows.items():
        row.save(tmp_path / name)
    apply(e2e_env, *model_claim(namespace, str(tmp_path), CLAIM))
    return rows


def a_deployment(name: str, namespace: str) -> dict[str, Any]:
    """The profile is not Custom: a complete DeepSeek-V4 is expected."""
    small = {"requests": {"cpu": "10m", "memory": "64Mi"}}  # they only read headers, and more than 20 share a machine
    engine = {"image": image_named("engine-cpu").tag, "imagePullPolicy": "Never", "resources": small}
    spec = {"model": {"source": f"pvc://{CLAIM}/{name}"}, "engine": engine}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def test_each_checkpoint_is_rejected_with_its_fault_in_status(
    e2e_env: LocalCluster, namespace: str, broken: dict[str, BrokenCheckpoint]
) -> None:
    apply(e2e_env, *(a_deployment(name, namespace) for name in broken))

    def verdicts() -> dict[str, Any]:
        found = get_json(e2e_env, "dsf", "-n", namespace)["items"]
        message = {flash["metadata"]["name"]: flash.get("status", {}).get("pods", []) for flash in found}
        return {name: pods[0] for name, pods in message.items() if pods and pods[0]["reason"] != "EngineStarting"}

    wait_until(lambda: len(verdicts()) == len(broken), "all have their verdict", seconds=400)
    wrong = {
        row.name: (pod["reason"], pod["message"])
        for name, pod in verdicts().items()
        if (row := broken[name]) and (pod["reason"] != "ModelRejected" or row.names not in pod["message"])
    }
    assert wrong == {}
    assert len(broken) >= 20
