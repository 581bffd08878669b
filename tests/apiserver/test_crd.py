"""The CRD as a real API server sees it: accepted, defaulting as the models do, refusing what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import a_flash_object
from cluster_fixtures import ControlPlane
from flash_operator.api.v1alpha1 import FlashDeployment, FlashSpec

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
FLASH_EXAMPLES = [path for path in EXAMPLES if "DeepSeekFlashDeployment" in path.read_text()]


def a_new(name: str = "flash", **spec: Any) -> dict[str, Any]:
    document = a_flash_object(name, **spec)
    document["metadata"] = {"name": name, "namespace": "default"}
    return document


def live(server: ControlPlane, name: str = "flash") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.kubectl("get", "dsf", name, "-o", "json").stdout)
    return found


@pytest.mark.parametrize("path", FLASH_EXAMPLES, ids=lambda path: path.name)
def test_every_example_applies(apply: Any, path: Path) -> None:
    done = apply(yaml.safe_load(path.read_text()))
    assert done.returncode == 0, done.stderr


def test_there_are_examples_to_apply() -> None:
    assert len(FLASH_EXAMPLES) >= 5


def test_the_servers_defaults_are_the_models(apply: Any, crd_server: ControlPlane) -> None:
    """One truth: were they different, the operator would plan for another spec than `kubectl get` shows."""
    minimal = a_new()
    assert apply(minimal).returncode == 0

    ours = FlashSpec.model_validate(minimal["spec"]).model_dump(by_alias=True, mode="json", exclude_none=True)
    assert live(crd_server)["spec"] == ours


def test_partial_sections_are_defaulted_alike(apply: Any, crd_server: ControlPlane) -> None:
    partial = a_new(readiness={"samples": 5}, engine={"profile": "Throughput"}, interconnect={"mode": "Safe"})
    assert apply(partial).returncode == 0

    ours = FlashSpec.model_validate(partial["spec"]).model_dump(by_alias=True, mode="json", exclude_none=True)
    assert live(crd_server)["spec"] == ours


REFUSED = {
    "no model": ({"model": None}, "spec.model", "must be of type object"),
    "a source without a scheme": ({"model": {"source": "/models/v4"}}, "spec.model.source", "should match"),
    "a source of an unknown scheme": ({"model": {"source": "s3://bucket/v4"}}, "spec.model.source", "(hf|oci|pvc)"),
    "a revision of a folder": (
        {"model": {"source": "pvc://a/b", "revision": "main"}},
        "spec.model.revision",
        "belongs to an hf:// source",
    ),
    "no served name": ({"model": {"source": "pvc://a/b", "servedNames": []}}, "spec.model.servedNames", "at least 1"),
    "negative replicas": ({"replicas": -1}, "spec.replicas", "greater than or equal to 0"),
    "too many replicas": ({"replicas": 65}, "spec.replicas", "less than or equal to 64"),
    "replicas as a word": ({"replicas": "two"}, "spec.replicas", "expected numeric"),
    "an unknown profile": ({"engine": {"profile": "Fast"}}, "spec.engine.profile", '"LongContext"'),
    "a custom profile without its figures": (
        {"engine": {"profile": "Custom"}},
        "spec.engine.profile",
        "needs contextTokens and maxSequences",
    ),
    "more memory than there is": ({"engine": {"memoryPercent": 120}}, "spec.engine.memoryPercent", "equal to 98"),
    "a context of nothing": ({"engine": {"contextTokens": 0}}, "spec.engine.contextTokens", "equal to 16"),
    "fewer batched tokens than sequences": (
        {"engine": {"batchedTokens": 16, "maxSequences": 32}},
        "spec.engine.batchedTokens",
        "at least maxSequences",
    ),
    "an unknown pull policy": (
        {"engine": {"imagePullPolicy": "Sometimes"}},
        "spec.engine.imagePullPolicy",
        '"IfNotPresent"',
    ),
    "the port as an extra argument": ({"engine": {"extraArgs": ["--port=9"]}}, "spec.engine.extraArgs", "8000"),
    "speculation as an extra argument": (
        {"engine": {"extraArgs": ["--speculative-config", "{}"]}},
        "spec.engine.extraArgs",
        "use speculation",
    ),
    "an API key as an extra argument": (
        {"engine": {"extraArgs": ["--api-key=x"]}},
        "spec.engine.extraArgs",
        "podTemplate with a Secret",
    ),
    "custom all-reduce as an extra argument": (
        {"engine": {"extraArgs": ["--disable-custom-all-reduce"]}},
        "spec.engine.extraArgs",
        "use interconnect.customAllReduce",
    ),
    "a variable of the operator's own": (
        {"engine": {"extraEnv": [{"name": "FLASH_RUN_DIR", "value": "/"}]}},
        "spec.engine.extraEnv",
        "choose another name",
    ),
    "a variable twice": (
        {"engine": {"extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
        "spec.engine.extraEnv",
        "duplicate",
    ),
    "a variable without a name": ({"engine": {"extraEnv": [{"value": "1"}]}}, "spec.engine.extraEnv", "name"),
    "a variable with a bad name": (
        {"engine": {"extraEnv": [{"name": "1A", "value": "1"}]}},
        "spec.engine.extraEnv[0].name",
        "should match",
    ),
    "an unknown speculation": ({"speculation": {"method": "Eagle"}}, "spec.speculation.method", '"Mtp"'),
    "too many drafts": ({"speculation": {"tokens": 3}}, "spec.speculation.tokens", "less than or equal to 2"),
    "safe and forced at once": (
        {"interconnect": {"mode": "Safe", "customAllReduce": "Enabled"}},
        "spec.interconnect.customAllReduce",
        "set one of them to Auto",
    ),
    "safe with peer-to-peer": (
        {"interconnect": {"mode": "Safe", "env": [{"name": "NCCL_P2P_DISABLE", "value": "0"}]}},
        "spec.interconnect.env",
        "remove NCCL_P2P_DISABLE=0",
    ),
    "LL128 over PCIe": (
        {"interconnect": {"env": [{"name": "NCCL_PROTO", "value": "LL,LL128"}]}},
        "spec.interconnect.env",
        "use LL or Simple",
    ),
    "NCCL without shared memory": (
        {"interconnect": {"env": [{"name": "NCCL_SHM_DISABLE", "value": "1"}]}},
        "spec.interconnect.env",
        "falls to sockets",
    ),
    "a variable that is not NCCL's": (
        {"interconnect": {"env": [{"name": "PATH", "value": "/"}]}},
        "spec.interconnect.env",
        "engine.extraEnv",
    ),
    "a floor of nothing": (
        {"readiness": {"minDecodeTokensPerSecond": 0}},
        "spec.readiness.minDecodeTokensPerSecond",
        "equal to 1",
    ),
    "a floor above what is possible": (
        {"readiness": {"minAcceptancePercent": 101}},
        "spec.readiness.minAcceptancePercent",
        "equal to 100",
    ),
    "a floor as a fraction": (
        {"readiness": {"minDecodeTokensPerSecond": 60.5}},
        "spec.readiness.minDecodeTokensPerSecond",
        "integer",
    ),
    "a ceiling beyond the request's time": (
        {"readiness": {"maxFirstTokenMillis": 500000, "requestTimeoutSeconds": 60}},
        "spec.readiness.maxFirstTokenMillis",
        "lower it",
    ),
    "a startup that is over before it is retried": (
        {"readiness": {"startupTimeoutSeconds": 10, "retrySeconds": 30}},
        "spec.readiness.startupTimeoutSeconds",
        "at least retrySeconds",
    ),
    "an empty question": ({"readiness": {"golden": {"prompt": ""}}}, "spec.readiness.golden.prompt", "at least 1"),
    "an unknown field": ({"engine": {"tensorParallelSize": 4}}, "engine.tensorParallelSize", "field not declared"),
}


@pytest.mark.parametrize(("spec", "field", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_spec_is_refused_with_the_field_and_the_remedy(
    apply: Any, spec: dict[str, Any], field: str, told: str
) -> None:
    done = apply(a_new(**spec))

    assert done.returncode != 0
    assert field in done.stderr
    assert told in done.stderr


def test_a_name_that_pods_could_not_bear_is_refused(apply: Any) -> None:
    done = apply(a_new("x" * 53))
    assert done.returncode != 0
    assert "metadata.name" in done.stderr


def test_the_source_cannot_be_changed(apply: Any) -> None:
    assert apply(a_new()).returncode == 0
    done = apply(a_new(model={"source": "pvc://models/other"}))

    assert done.returncode != 0
    assert "spec.model.source" in done.stderr
    assert "create one beside this" in done.stderr


def test_everything_else_can_be_changed(apply: Any) -> None:
    assert apply(a_new()).returncode == 0
    done = apply(a_new(replicas=3, engine={"profile": "Throughput"}, speculation={"method": "Disabled"}))
    assert done.returncode == 0, done.stderr


def test_kubectl_scale_works(apply: Any, crd_server: ControlPlane) -> None:
    assert apply(a_new()).returncode == 0
    crd_server.kubectl("scale", "dsf/flash", "--replicas=3")
    assert live(crd_server)["spec"]["replicas"] == 3


def test_the_table_has_the_columns_that_answer_the_first_questions(apply: Any, crd_server: ControlPlane) -> None:
    assert apply(a_new()).returncode == 0
    header = crd_server.kubectl("get", "dsf").stdout.splitlines()[0].split()
    assert header == ["NAME", "READY", "REPLICAS", "TOK/S", "ACCEPT", "REASON", "AGE"]


def test_kubectl_explain_teaches(crd_server: ControlPlane) -> None:
    told = crd_server.kubectl("explain", "dsf.spec.readiness.minDecodeTokensPerSecond").stdout
    assert "Least decode speed of one stream" in told


def test_an_object_of_a_newer_crd_does_not_break_this_operator(apply: Any, crd_server: ControlPlane) -> None:
    """After a downgrade objects with fields of tomorrow are still in the store."""
    newer = yaml.safe_load((ROOT / "crds" / "deepseekflashdeployments.yaml").read_text())
    spec = newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    spec["tomorrow"] = {"type": "string", "default": "unheard of"}
    spec["engine"]["properties"]["turbo"] = {"type": "boolean"}
    crd_server.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(newer))
    try:
        assert apply(a_new(engine={"turbo": True})).returncode == 0
        flash = FlashDeployment.from_object(live(crd_server))
    finally:
        path = ROOT / "crds" / "deepseekflashdeployments.yaml"
        crd_server.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))
    assert flash.spec.engine.profile == "Balanced"
    assert flash.spec.model.source == "pvc://models/v4"
