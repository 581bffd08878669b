"""Serving with a real vLLM on a real Kubernetes: a ready replica is fast, and any other one reports why it is not."""

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from cluster_fixtures import LocalCluster
from direct_http import WITHOUT_PROXY
from e2e_env import Flash, get_json, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

START_SECONDS = 400
"""A generous bound for a vLLM start on two busy cores; it took 25 to 80 s where this was written."""

MakeFlash = Callable[..., Flash]


def children(flash: Flash) -> list[str]:
    kinds = "deployments,services,configmaps,poddisruptionbudgets,pods"
    selector = f"deepseekflash.dev/deployment={flash.name}"
    items = get_json(flash.cluster, kinds, "-n", flash.namespace, "-l", selector)["items"]
    return sorted(f"{item['kind']}/{item['metadata']['name']}" for item in items)


def chat(flash: Flash) -> dict[str, Any]:
    """One chat completion through the Service."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    request = urllib.request.Request(  # noqa: S310 - of the cluster
        f"{flash.address()}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with WITHOUT_PROXY.open(request, timeout=60) as answer:
        reply: dict[str, Any] = json.load(answer)
    return reply


def events_of(flash: Flash) -> list[tuple[str, str]]:
    events = get_json(flash.cluster, "events.events.k8s.io", "-n", flash.namespace)["items"]
    ours = [e for e in events if e["regarding"]["name"] == flash.name]
    return [(event["reason"], event["note"]) for event in ours]


@pytest.mark.alone
@pytest.mark.usefixtures("own_node")
def test_a_good_model_becomes_ready_serves_and_rolls_only_for_what_the_engine_runs_with(
    e2e_env: LocalCluster, tiny: MakeFlash
) -> None:
    e2e_env.set_node_labels({"deepseekflash.dev/gpu-link": "phb", "deepseekflash.dev/gpu-p2p": "verified"})
    flash = tiny()

    # It has an endpoint only after it has proved its speed.
    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)
    status, pod = flash.status(), flash.pod()
    summary = status["summary"]
    assert summary["replicas"] == "1/1"
    assert summary["acceptancePercent"] >= 95, "every draft of this model is right by construction"
    assert summary["decodeTokensPerSecond"] >= 1
    assert flash.condition("SpeculationActive")["status"] == "True"
    assert status["pods"][0]["promptTokens"] >= 900, "a prompt that nearly fills the context was timed as well"
    assert status["pods"][0]["prefillTokensPerSecond"] > 0
    assert status["pods"][0]["depthDecodeTokensPerSecond"] > 0
    assert flash.endpoints() == [pod["status"]["podIP"]]
    assert chat(flash)["choices"][0]["message"]["content"]
    assert [reason for reason, _ in events_of(flash)].count("Passed") == 1
    row = e2e_env.kubectl("get", "dsf", flash.name, "-n", flash.namespace).stdout
    assert row.splitlines()[0].split() == ["NAME", "READY", "REPLICAS", "TOK/S", "ACCEPT", "REASON", "UPDATE", "AGE"]
    assert row.splitlines()[1].split()[:3] == ["tiny", "True", "1/1"]

    # It runs with the flags of its node, each with a reason.
    annotation = json.loads(pod["metadata"]["annotations"]["deepseekflash.dev/engine-flags"])
    assert annotation["row"] == "T3"
    assert status["pods"][0]["flagsOrigin"] == "annotation"
    assert "NCCL_P2P_LEVEL" in " ".join(status["pods"][0]["flags"])
    assert flash.condition("TopologyResolved")["status"] == "True"

    # A changed label of its node changes only the status.
    e2e_env.set_node_labels({"deepseekflash.dev/gpu-p2p": "hang"})
    flash.wait_for("TopologyResolved", "False", "FlagsOutdated", seconds=60)
    assert flash.pod()["metadata"]["uid"] == pod["metadata"]["uid"]
    assert json.loads(flash.pod()["metadata"]["annotations"]["deepseekflash.dev/engine-flags"]) == annotation
    assert flash.endpoints() == [pod["status"]["podIP"]]

    # A field that the engine does not run with restarts nothing.
    tiny(readiness={"retrySeconds": 45, "minAcceptancePercent": 50})
    flash.wait_for("Ready", "True", seconds=60)
    assert flash.pod()["metadata"]["uid"] == pod["metadata"]["uid"]

    # A changed engine flag starts a rollout, and the new pod takes the flags of the current label.
    tiny(engine={"contextTokens": 768})
    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)
    rolled = flash.pod()
    assert rolled["metadata"]["uid"] != pod["metadata"]["uid"]
    assert json.loads(rolled["metadata"]["annotations"]["deepseekflash.dev/engine-flags"])["row"] == "T7"
    assert flash.endpoints() == [rolled["status"]["podIP"]]

    # Deleting the CR leaves nothing.
    e2e_env.kubectl("delete", "dsf", flash.name, "-n", flash.namespace)
    wait_until(lambda: not children(flash), "the children are gone", seconds=120)


def test_a_dead_mtp_head_is_never_ready_although_the_engine_is_healthy_and_answers_right(
    e2e_env: LocalCluster, tiny: MakeFlash
) -> None:
    flash = tiny(model="dead")

    found = flash.wait_for("SpeculationActive", "False", "DraftDead", seconds=START_SECONDS)

    pod = flash.pod()
    health = f"http://{pod['status']['podIP']}:8000/health"
    with WITHOUT_PROXY.open(health, timeout=30) as answer:
        assert answer.status == 200
    assert "0" in found["message"]
    assert "drafted" in found["message"]
    assert flash.condition("Ready")["reason"] == "DraftDead"
    assert flash.status()["summary"]["acceptancePercent"] == 0
    assert flash.endpoints() == []
    # Without labels on the node it runs with safe flags, and status says so.
    assert flash.condition("TopologyResolved")["reason"] == "NodeUnlabelled"
    assert e2e_env.node_name in flash.condition("TopologyResolved")["message"]


def test_an_engine_that_exits_is_reported_with_its_own_last_words(tiny: MakeFlash) -> None:
    flash = tiny(model="nomtp")

    found = flash.wait_for("Ready", "False", "EngineExited", seconds=START_SECONDS)

    assert "weights missing from checkpoint" in found["message"]
    assert flash.condition("Progressing")["status"] == "False"
    assert flash.endpoints() == []


def test_a_slow_engine_is_reported_with_both_figures_and_passes_a_lower_floor_without_a_restart(
    tiny: MakeFlash,
) -> None:
    flash = tiny(readiness={"minDecodeTokensPerSecond": 2000})

    found = flash.wait_for("Ready", "False", "TooSlow", seconds=START_SECONDS)
    measured = flash.status()["summary"]["decodeTokensPerSecond"]
    assert "2000" in found["message"]
    assert 0 < measured < 2000
    assert flash.endpoints() == []

    pod = flash.pod()
    tiny(readiness={"minDecodeTokensPerSecond": 1})
    flash.wait_for("Ready", "True", "Passed", seconds=180)
    assert flash.pod()["metadata"]["uid"] == pod["metadata"]["uid"]
    assert flash.endpoints() == [pod["status"]["podIP"]]
