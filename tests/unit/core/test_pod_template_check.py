"""What podTemplate must not contain. CEL rules cannot read it, so the operator reports violations in a condition."""

from typing import Any

import pytest

from builders import SETTINGS, a_flash, a_gate, a_node, a_pod, an_observed, condition
from flash_contracts.engine_pod import API_KEYS_ARGUMENT
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import desired_children, plan
from flash_operator.core.resources.deployment import deployment
from flash_operator.core.resources.pod_template_check import options_of, why_refused
from flash_operator.core.rollout.template_revision import changes_between, render

CUSTOM = {"profile": "Custom", "contextTokens": 1024, "maxSequences": 4}
OURS = ["serve", "/models/v4", "--port=8000", "--served-model-name", "v4", "--tensor-parallel-size=2"]


def engine(**container: Any) -> RawObject:
    return {"spec": {"containers": [{"name": "engine", **container}]}}


def args(*more: str) -> RawObject:
    return engine(args=[*OURS, *more])


def env(name: str, value: str = "x") -> RawObject:
    return engine(env=[{"name": name, "value": value}])


REFUSED: dict[str, tuple[dict[str, Any], RawObject, str, str]] = {
    "four cards": ({}, args("--tensor-parallel-size=4"), "containers[engine].args", "--tensor-parallel-size 4 is not"),
    "four cards by two words": ({}, args("--tensor_parallel_size", "4"), "containers[engine].args", "raise replicas"),
    "four cards, cut short": ({}, args("--tensor-par=4"), "containers[engine].args", "raise replicas"),
    "one card": ({}, args("-tp", "1"), "containers[engine].args", "raise replicas"),
    "three cards on CPUs": ({"engine": CUSTOM}, args("-tp=3"), "containers[engine].args", "raise replicas"),
    "data parallelism": ({}, args("-dp", "2"), "containers[engine].args", "without data parallelism"),
    "a rank of several": ({}, args("--data-parallel-rank=1"), "containers[engine].args", "without data parallelism"),
    "several nodes": ({}, args("--nnodes", "2"), "containers[engine].args", "runs in one pod"),
    "two servers": ({}, args("--api-server-count=2"), "containers[engine].args", "one server"),
    "a hub's token": ({}, args("--hf-token=x"), "containers[engine].args", "valueFrom.secretKeyRef"),
    "a client's key": ({}, args("--api-key", "x"), "containers[engine].args", "engine.apiKeysSecret"),
    "a token by its form": ({}, args("--download-dir", "hf_" + "aB3" * 8), "containers[engine].args", "secretKeyRef"),
    "a secret variable": (
        {},
        env("OPENAI_API_KEY"),
        "containers[engine].env[OPENAI_API_KEY]",
        "valueFrom.secretKeyRef",
    ),
    "a password in an address": (
        {},
        env("HTTPS_PROXY", "http://me:secret@proxy"),
        "containers[engine].env[HTTPS_PROXY]",
        "secretKeyRef",
    ),
    "a secret in a container of the user's own": (
        {},
        {"spec": {"initContainers": [{"name": "mine", "image": "a/b", "env": [{"name": "PGPASSWORD", "value": "x"}]}]}},
        "initContainers[mine].env[PGPASSWORD]",
        "secretKeyRef",
    ),
    "other GPUs": ({}, env("CUDA_VISIBLE_DEVICES", "0"), "containers[engine].env[CUDA_VISIBLE_DEVICES]", "remove it"),
    "more GPUs": (
        {},
        engine(resources={"limits": {"nvidia.com/gpu": 4}}),
        "containers[engine].resources.limits",
        "raise replicas to use more",
    ),
    "an image that cannot be": ({}, engine(image="Mine/engine"), "containers[engine].image", "in lower case"),
    "keys that nothing checks": (
        {"engine": {"apiKeysSecret": "clients"}},
        args(),
        "containers[engine].args",
        f"they lack {API_KEYS_ARGUMENT}",
    ),
}

ACCEPTED: dict[str, tuple[dict[str, Any], RawObject]] = {
    "nothing": ({}, {}),
    "our own arguments": ({}, args()),
    "one card on CPUs": ({"engine": CUSTOM}, args("--tensor-parallel-size", "1", "--data-parallel-size=1")),
    "no GPU on CPUs": ({"engine": CUSTOM}, engine(resources={"limits": {"nvidia.com/gpu": "0", "cpu": 4}})),
    "two GPUs": ({}, engine(resources={"limits": {"nvidia.com/gpu": "2"}})),
    "a secret by reference": (
        {},
        engine(env=[{"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
    ),
    "a variable that is removed": ({}, engine(env=[{"name": "HF_TOKEN", "value": None}])),
    "a library": ({}, env("LD_PRELOAD", "/x.so")),
    "our paths": ({}, env("HF_HOME", "/cache")),
    "keys that are checked": ({"engine": {"apiKeysSecret": "clients"}}, args(API_KEYS_ARGUMENT)),
    "what is mistyped, which the API server refuses": ({}, engine(args="serve", env={"a": "b"}, resources=[1])),
    "what is no template": ({}, {"spec": "text"}),
}


@pytest.mark.parametrize(("spec", "patch", "field", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_contradiction_is_named_with_its_field_and_the_remedy(
    spec: dict[str, Any], patch: RawObject, field: str, message: str
) -> None:
    refused = why_refused(a_flash(**spec, podTemplate=patch).spec)
    assert refused is not None
    assert refused.reason == "PodTemplateRefused"
    assert refused.message.startswith(f"spec.podTemplate.spec.{field}: ")
    assert message in refused.message


@pytest.mark.parametrize(("spec", "patch"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_anything_else_is_the_users_own(spec: dict[str, Any], patch: RawObject) -> None:
    assert why_refused(a_flash(**spec, podTemplate=patch).spec) is None


def test_the_message_does_not_show_the_secret() -> None:
    for patch in (env("HF_TOKEN", "s3cretValue42"), args("--hf-token=s3cretValue42")):
        refused = why_refused(a_flash(podTemplate=patch).spec)
        assert refused is not None
        assert "s3cretValue42" not in refused.message


def test_options_are_read_as_vllms_parser_reads_them() -> None:
    words = ["serve", "m", "--a_b=c", "--d", "e", "-tp", "4", "--json.key_a=1", "--flag", "--n", "-1"]
    assert list(options_of(words)) == [
        ("--a-b", "c"), ("--d", "e"), ("-tp", "4"), ("--json", "1"), ("--flag", ""), ("--n", "-1"),
    ]  # fmt: skip


def test_no_engine_is_started_with_a_contradiction() -> None:
    wanted = plan(an_observed(a_flash(podTemplate=args("-tp", "4"))))
    assert "Deployment" not in [child["kind"] for child in wanted.apply]
    ready = condition(wanted.status, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "PodTemplateRefused")


def a_running(made_from: FlashDeployment, now: FlashDeployment) -> Observed:
    """Engines that were started for the spec `made_from`, while the spec is now `now`."""
    revision = render(made_from, SETTINGS)
    return an_observed(
        now,
        pods=(a_pod(ready=True),),
        nodes=(a_node(gpu_link="phb", gpu_p2p="verified"),),
        gates={"flash-a": a_gate()},
        children=(revision.to_object(made_from), deployment(made_from, revision.template)),
    )


def test_engines_that_run_are_left_as_they_are() -> None:
    before = a_flash()
    observed = a_running(before, a_flash(podTemplate=args("-tp", "4")))
    (made,) = [child for child in desired_children(observed) if child["kind"] == "Deployment"]
    assert made["spec"]["template"] == render(before, SETTINGS).template
    assert plan(observed).evict == ()
    assert condition(plan(observed).status, "Ready")["reason"] == "PodTemplateRefused"
    assert condition(plan(observed).status, "Available")["status"] == "True"


def test_a_template_that_runs_already_is_not_refused_by_a_newer_operator() -> None:
    flash = a_flash(podTemplate=env("OPENAI_API_KEY"))
    status = plan(a_running(flash, flash)).status
    assert status is not None
    assert "PodTemplateRefused" not in str(status)
    changed = a_flash(podTemplate=env("OPENAI_API_KEY"), engine={"contextTokens": 4096})
    assert condition(plan(a_running(flash, changed)).status, "Ready")["reason"] == "PodTemplateRefused"


def test_changes_of_a_template_are_shown_without_its_secrets() -> None:
    old, new = (
        render(
            a_flash(podTemplate=engine(env=[{"name": "PGPASSWORD", "value": value}], args=["--hf-token", value])),
            SETTINGS,
        )
        for value in ("s3cretValue42", "s3cretValue43")
    )
    changes = changes_between(old, new)
    assert [change.partition(":")[0] for change in changes] == ["engine args", "engine env PGPASSWORD value"]
    assert "s3cret" not in str(changes)
