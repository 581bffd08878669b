"""The CRD as a real API server sees it: accepted, defaulting as the models do, keeping what is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import a_flash_object
from cluster_fixtures import ControlPlane
from flash_contracts.names import API_VERSION, KIND, PLURAL, STATUS_FIELD_MANAGER
from flash_operator.api.status import Condition, FlashStatus, ModelStatus, PodStatus, StatusSummary
from flash_operator.api.v1alpha1 import FlashDeployment, FlashSpec
from waiting import eventually

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).resolve().parents[2]
CRD = ROOT / "crds" / "deepseekflashdeployments.yaml"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
FLASH_EXAMPLES = [path for path in EXAMPLES if "DeepSeekFlashDeployment" in path.read_text()]


def live(server: ControlPlane, name: str = "flash") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.kubectl("get", "dsf", name, "-o", "json").stdout)
    return found


@pytest.mark.parametrize("path", FLASH_EXAMPLES, ids=lambda path: path.name)
def test_every_example_applies(apply: Any, path: Path) -> None:
    done = apply(yaml.safe_load(path.read_text()))
    assert done.returncode == 0, done.stderr


def test_there_are_examples_to_apply() -> None:
    assert len(FLASH_EXAMPLES) >= 5


SPECS: dict[str, dict[str, Any]] = {
    "the least that can be said": {},
    "sections of which a part is said": {
        "readiness": {"samples": 5, "golden": {"prompt": "2 + 2?"}},
        "engine": {"profile": "Throughput", "extraEnv": [{"name": "A"}]},
        "interconnect": {"mode": "Safe"},
    },
    "sections that are empty": {
        "engine": {},
        "speculation": {},
        "interconnect": {},
        "readiness": {"golden": {}},
        "placement": {},
        "drain": {},
    },
    "other people's objects": {
        "engine": {"resources": {"limits": {"cpu": 8, "memory": "64Gi"}}},
        "placement": {"tolerations": [{"key": "a", "operator": "Exists"}], "nodeSelector": {"pool": "gpu"}},
        "podTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"priorityClassName": None}},
    },
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_the_server_applies_the_defaults_of_the_models(
    apply_spec: Any, crd_server: ControlPlane, spec: dict[str, Any]
) -> None:
    """If they differed, the operator would plan for a spec other than the one that `kubectl get` shows."""
    assert apply_spec(**spec).returncode == 0

    ours = FlashSpec.model_validate(a_flash_object(**spec)["spec"])
    assert live(crd_server)["spec"] == ours.model_dump(by_alias=True, mode="json", exclude_none=True)


ACCEPTED: dict[str, dict[str, Any]] = {
    "arguments that only resemble those of a field": {
        "engine": {
            "extraArgs": [
                *(
                    "--model-impl=auto",
                    "--hf-overrides",
                    '{"eos_token": "</s>", "a b": 1}',
                    "-q",
                    "mxfp4",
                    "--seed",
                    "-1",
                ),
                *("--max_num_queued_reqs", "8", "--max-num-queued-tokens=100000", "--distributed-executor-backend=mp"),
                *("-O3", "-cc.mode=3", "--enable-prefix-c", "--enable-expert-parallel", "--no-disable-hybrid-kv-cache"),
                *("--tokenizer=/models/v4", "--long-prefill-token-threshold=4096"),
            ]
        }
    },
    "one GPU or none, and graphs of one's own": {
        "engine": {
            "profile": "Custom",
            "contextTokens": 1024,
            "maxSequences": 4,
            "extraArgs": [
                *("--tensor-parallel-size=1", "-dp", "1", "--api_server_count=1", "--pipeline-parallel-size", "1"),
                *("--max-cudagraph-capture-size=16", "--enforce-eager"),
            ],
        }
    },
    "an argument that only another image has": {
        "engine": {"image": "mine/engine:nightly", "extraArgs": ["--not-in-the-pinned-version=1"]}
    },
    "arguments of another image that only begin like a refused one": {
        "engine": {"image": "mine/engine:nightly", "extraArgs": ["-tp-x=1", "-dpn-extra", "-s2", "--model-impl=auto"]}
    },
    "variables that only resemble secrets": {
        "engine": {
            "extraEnv": [
                {"name": "TOKENIZERS_PARALLELISM", "value": "false"},
                {"name": "HF_TOKEN_PATH", "value": "/etc/token"},
                {"name": "AWS_ACCESS_KEY_ID", "value": "me"},
                {"name": "HF_HUB_DISABLE_IMPLICIT_TOKEN", "value": "1"},
                {"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"},
                {"name": "PATH", "value": "/opt/mine:/usr/bin"},
                {"name": "PYTHONUNBUFFERED", "value": "1"},
                {"name": "MY_SECRET_FILE", "value": "/run/secret"},
            ]
        }
    },
    "keys of clients": {"engine": {"apiKeysSecret": "team.keys"}},
    "a request equal to its limit": {
        "engine": {"resources": {"requests": {"cpu": "1000m", "memory": "1Ki"}, "limits": {"cpu": 1, "memory": 1024}}}
    },
    "an image of a registry with a port": {"engine": {"image": "Registry-1:5000/a.b/c__d-e:V1.0_x"}},
    "an image of this machine": {"engine": {"image": "localhost/flash/engine:cpu"}},
    "quantities in every form": {
        "engine": {"resources": {"limits": {"cpu": 8, "memory": "64Gi"}, "requests": {"cpu": "500m", "memory": "1e9"}}}
    },
    "an image with all that a hub's model may have": {
        "model": {
            "source": "oci://registry.example:5000/team/v4:1",
            "ociDelivery": "Fetch",
            "credentialsSecret": "pull",
            "cache": {"type": "Node", "maxGibibytes": 400},
        }
    },
    "tolerations as Kubernetes has them": {
        "placement": {
            "tolerations": [
                {"operator": "Exists"},
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "pool", "value": "gpu", "effect": "NoExecute", "tolerationSeconds": 60},
            ],
            "nodeSelector": {"karpenter.k8s.aws/instance-gpu-name": "rtx-pro-server-6000", "empty": ""},
        }
    },
    "every kind of expected answer": {
        "readiness": {"golden": {"prompt": "2 + 2?", "expect": r"(?i)\b(4|four)\b"}},
    },
    "an image by its digest": {"engine": {"image": f"registry.example:5000/a/b@sha256:{'0' * 64}"}},
    "an hf source with its commit": {"model": {"source": "hf://owner/name.v4", "revision": "0123abc"}},
    "a cache on the node, a token and a mirror": {
        "model": {
            "source": "hf://owner/name",
            "cache": {"type": "Node", "path": "/data/models-2", "maxGibibytes": 400},
            "credentialsSecret": "hub.token",
            "hubEndpoint": "https://mirror.example:8443/hub",
        }
    },
    "a cache on a claim": {"model": {"source": "hf://owner/name", "cache": {"type": "Claim", "claimName": "models"}}},
    "a cache in the pod": {"model": {"source": "hf://owner/name", "cache": {}}},
    "an oci source by its digest": {"model": {"source": f"oci://registry.example:5000/m@sha256:{'0' * 64}"}},
    "a claim alone": {"model": {"source": "pvc://models"}},
    "a head restored from a claim, by a capture": {
        "model": {
            "source": "pvc://models/v4/w4a16",
            "restoreMtp": {"source": "pvc://models/official", "capture": "pvc://captures/a.b/c-1", "image": "q:1"},
        }
    },
    "a head restored from a hub": {
        "model": {"source": "pvc://models/v4", "restoreMtp": {"source": "hf://owner/name.v4@0123abc"}}
    },
    "a head restored from a hub of one's own": {
        "model": {
            "source": "pvc://models/v4",
            "restoreMtp": {"source": "hf://owner/name"},
            "hubEndpoint": "https://mirror",
            "credentialsSecret": "hub-token",
        }
    },
    "a restoration that is switched off, of another source": {
        "model": {"source": "hf://owner/v4", "restoreMtp": {"state": "Disabled", "source": "hf://owner/name"}}
    },
    "an allocator that only an enabled custom all-reduce minds": {
        "engine": {"extraEnv": [{"name": "PYTORCH_CUDA_ALLOC_CONF", "value": "expandable_segments:True"}]}
    },
    "a pod template of one's own": {
        "podTemplate": {"spec": {"containers": [{"name": "engine", "env": [{"name": "HF_TOKEN", "value": "x"}]}]}}
    },
}


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_valid_spec_is_accepted(apply_spec: Any, spec: dict[str, Any]) -> None:
    """Only this test detects a rule that rejects too much."""
    done = apply_spec(**spec)
    assert done.returncode == 0, done.stderr


def test_the_source_cannot_be_changed(apply_spec: Any) -> None:
    assert apply_spec().returncode == 0
    done = apply_spec(model={"source": "pvc://models/other"})

    assert done.returncode != 0
    assert "spec.model.source" in done.stderr
    assert "model.source is immutable: create another DeepSeekFlashDeployment" in done.stderr


def test_the_source_of_a_restored_head_cannot_be_changed(apply_spec: Any) -> None:
    model = {"source": "pvc://models/v4", "restoreMtp": {"source": "hf://a/official"}}
    assert apply_spec(model=model).returncode == 0
    done = apply_spec(model={**model, "restoreMtp": {"source": "hf://a/other"}})
    assert done.returncode != 0
    assert "spec.model.restoreMtp.source" in done.stderr
    assert "restoreMtp.source is immutable" in done.stderr
    assert apply_spec(model={**model, "restoreMtp": {"source": "hf://a/official", "state": "Disabled"}}).returncode == 0


def test_everything_else_can_be_changed(apply_spec: Any) -> None:
    assert apply_spec().returncode == 0
    done = apply_spec(
        replicas=3,
        model={"source": "pvc://models/v4", "servedNames": ["other"]},
        engine={"profile": "Throughput", "image": "mine:1"},
        speculation={"method": "Disabled"},
        interconnect={"mode": "Fast"},
        readiness={"samples": 1},
    )
    assert done.returncode == 0, done.stderr


def test_kubectl_scale_and_autoscalers_see_replicas_and_selector(apply_spec: Any, crd_server: ControlPlane) -> None:
    assert apply_spec().returncode == 0
    report(crd_server)

    crd_server.kubectl("scale", "dsf/flash", "--replicas=3")

    path = f"/apis/{API_VERSION}/namespaces/default/{PLURAL}/flash/scale"
    scale = json.loads(crd_server.kubectl("get", "--raw", path).stdout)
    assert scale["spec"]["replicas"] == 3
    assert scale["status"] == {"replicas": 1, "selector": "deepseekflash.dev/deployment=flash"}


def test_kubectl_get_shows_readiness_and_speed(apply_spec: Any, crd_server: ControlPlane) -> None:
    assert apply_spec().returncode == 0
    report(crd_server)

    header, row = crd_server.kubectl("get", "dsf").stdout.splitlines()

    assert header.split() == ["NAME", "READY", "REPLICAS", "TOK/S", "ACCEPT", "REASON", "UPDATE", "AGE"]
    assert row.split()[:-1] == ["flash", "False", "0/1", "41", "93", "TooSlow"]


def test_kubectl_get_wide_shows_nodes_and_flags(apply_spec: Any, crd_server: ControlPlane) -> None:
    assert apply_spec().returncode == 0
    report(crd_server)

    header, row = crd_server.kubectl("get", "dsf", "-o", "wide").stdout.splitlines()

    assert header.split()[-4:] == ["NODES", "LINK", "P2P", "ROW"]
    assert row.split()[-4:] == ["node-1", "phb", "hang", "T7"]


def test_a_deployment_without_status_has_a_row(apply_spec: Any, crd_server: ControlPlane) -> None:
    assert apply_spec().returncode == 0
    assert crd_server.kubectl("get", "dsf", "--no-headers").stdout.split()[0] == "flash"


def test_a_status_survives_a_round_trip(apply_spec: Any, crd_server: ControlPlane) -> None:
    """Structural schemas prune silently: a field that the schema does not know would be lost."""
    assert apply_spec().returncode == 0
    report(crd_server)
    assert live(crd_server)["status"] == STATUS.model_dump(by_alias=True, mode="json", exclude_none=True)


def test_a_status_write_does_not_change_the_spec(apply_spec: Any, crd_server: ControlPlane) -> None:
    assert apply_spec().returncode == 0
    document = {**live(crd_server), "status": {"replicas": 7}}
    document["spec"]["replicas"] = 9
    crd_server.kubectl("replace", "--subresource=status", "-f", "-", stdin=json.dumps(document))

    found = live(crd_server)
    assert (found["spec"]["replicas"], found["status"]["replicas"]) == (1, 7)


def test_kubectl_explain_shows_the_description(crd_server: ControlPlane) -> None:
    explained = crd_server.kubectl("explain", "dsf.spec.readiness.minDecodeTokensPerSecond").stdout
    assert "Lowest decode speed of a single stream" in explained


def test_an_object_of_a_newer_crd_is_readable(apply_spec: Any, crd_server: ControlPlane) -> None:
    """After a downgrade, stored objects still have the fields of the newer CRD."""
    newer = yaml.safe_load(CRD.read_text())
    spec = newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    spec["tomorrow"] = {"type": "string", "default": "unheard of"}
    spec["engine"]["properties"]["turbo"] = {"type": "boolean"}
    crd_server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(newer))
    try:
        wait_until_known(crd_server, "dsf.spec.engine.turbo")
        assert apply_spec(engine={"turbo": True}).returncode == 0
        raw = live(crd_server)
    finally:
        crd_server.kubectl("apply", "--server-side", "-f", str(CRD))
    assert (raw["spec"]["tomorrow"], raw["spec"]["engine"]["turbo"]) == ("unheard of", True)
    flash = FlashDeployment.from_object(raw)
    assert flash.spec == FlashDeployment.from_object(a_flash_object()).spec


STATUS = FlashStatus(
    conditions=[
        Condition(
            type="Ready",
            status="False",
            observed_generation=1,
            last_transition_time="2026-11-24T12:00:00Z",
            reason="TooSlow",
            message="0 of 1 replicas ready",
        )
    ],
    observed_generation=1,
    replicas=1,
    ready_replicas=0,
    selector="deepseekflash.dev/deployment=flash",
    endpoint="http://flash.default.svc:8000/v1",
    summary=StatusSummary(
        replicas="0/1",
        decode_tokens_per_second=41,
        acceptance_percent=93,
        nodes="node-1",
        link="phb",
        p2p="hang",
        row="T7",
    ),
    model=ModelStatus(
        path="pvc://models/v4-with-mtp-97debff6",
        mtp="Restored",
        message="744 matrices by GPTQ",
        matrices_gptq=744,
        matrices_rounded=24,
        worst_error_per_million=12300,
        seconds=33,
    ),
    pods=[
        PodStatus(
            name="flash-a",
            uid="uid-of-flash-a",
            node="node-1",
            link="phb",
            p2p="verified",
            row="T3",
            flags=["NCCL_P2P_LEVEL=PHB (p2pTest: T3)"],
            flags_origin="annotation",
            flags_outdated="Current",
            reason="TooSlow",
            message="decode 41.2 tok/s, wanted at least 60",
            decode_tokens_per_second=41,
            acceptance_percent=93,
            first_token_millis=155,
            checked_time="2026-11-24T12:00:00Z",
            image_digest="registry.example/flash/engine@sha256:0",
        )
    ],
)
"""Every field of a status, so that the schema cannot lack one unnoticed."""


def report(server: ControlPlane) -> None:
    """Write the status as the operator does."""
    status = STATUS.model_dump(by_alias=True, mode="json", exclude_none=True)
    document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "flash"}, "status": status}
    server.kubectl(
        "apply", "--server-side", "--subresource=status", "--field-manager", STATUS_FIELD_MANAGER,
        "-f", "-", stdin=json.dumps(document),
    )  # fmt: skip


def wait_until_known(server: ControlPlane, field: str) -> None:
    """The API server publishes a changed schema shortly after it has accepted it."""
    eventually(lambda: server.kubectl("explain", field, check=False).returncode == 0, f"the API server knows {field}")
