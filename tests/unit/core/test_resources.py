"""The children, and which changes affect the pod template: each one makes every engine load 149 GiB again."""

import json
from dataclasses import replace
from typing import Any

import pytest

from builders import SETTINGS, a_flash
from flash_contracts.engine_pod import API_KEYS_ARGUMENT, API_KEYS_DIR, QUARANTINE_FILE
from flash_contracts.flags import FlagSet
from flash_contracts.names import ENGINE_FLAGS_ANNOTATION, FLOOR_ANNOTATION, QUARANTINE_ANNOTATION
from flash_contracts.variable_aliases import ALLOCATOR
from flash_engine.gate.pod_annotations import FLOOR_FILE
from flash_engine.launcher.engine_flags import FLAGS_FILE
from flash_operator.api.v1alpha1 import DEFAULT_ANSWER, LONG_ANSWER, LONG_QUESTION
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.deployment import FALLBACK_FLAGS, deployment, pod_template
from flash_operator.core.resources.disruption_budget import disruption_budget
from flash_operator.core.resources.engine_args import vllm_arguments
from flash_operator.core.resources.gate_config import gate_config, gate_settings
from flash_operator.core.resources.service import service
from flash_operator.core.resources.strategic_merge import merge


def engine(template: RawObject) -> RawObject:
    (container,) = template["spec"]["containers"]
    return dict(container)


def gate(template: RawObject) -> RawObject:
    (container,) = template["spec"]["initContainers"]
    return dict(container)


def template(**spec: Any) -> RawObject:
    return pod_template(a_flash(**spec), SETTINGS)


def arguments(**spec: Any) -> list[str]:
    return vllm_arguments(a_flash(**spec).spec)


RESTARTS = {
    "another context length": ({"engine": {"contextTokens": 4096}}, True),
    "another profile": ({"engine": {"profile": "Throughput"}}, True),
    "an extra argument": ({"engine": {"extraArgs": ["--seed=1"]}}, True),
    "keys of clients": ({"engine": {"apiKeysSecret": "clients"}}, True),
    "speculation off": ({"speculation": {"method": "Disabled"}}, True),
    "another interconnect mode": ({"interconnect": {"mode": "Safe"}}, True),
    "more replicas": ({"replicas": 3}, False),
    "another decode floor": ({"readiness": {"minDecodeTokensPerSecond": 10}}, False),
    "another acceptance floor": ({"readiness": {"minAcceptancePercent": 1}}, False),
    "another acceptance length": ({"readiness": {"minAcceptanceLengthPercent": 150}}, False),
    "another long prompt": ({"readiness": {"promptTokens": 8192}}, False),
    "features that are required": ({"readiness": {"features": "Require"}}, False),
    "another golden question": ({"readiness": {"golden": {"prompt": "2 + 2?", "expect": "4"}}}, False),
    "another startup budget": ({"readiness": {"startupTimeoutSeconds": 60}}, False),
}


@pytest.mark.parametrize(("spec", "restarts"), RESTARTS.values(), ids=RESTARTS.keys())
def test_only_what_the_engine_runs_with_changes_the_pod_template(spec: RawObject, *, restarts: bool) -> None:
    assert (template(**spec) != template()) is restarts


def test_the_same_cr_gives_the_same_template_byte_for_byte() -> None:
    assert json.dumps(template()) == json.dumps(template())


def test_an_upgraded_operator_with_the_same_engine_image_restarts_nothing() -> None:
    flash = a_flash(engine={"image": "mine/engine:7"})
    newer = replace(SETTINGS, engine_image="registry.example/flash/engine:2")
    assert pod_template(flash, newer) == pod_template(flash, SETTINGS)


def test_engine_pods_are_restricted_and_hold_no_token() -> None:
    spec = template()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (engine(template()), gate(template())):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_binding_memory_takes_a_capability_for_the_engine_and_for_nothing_else() -> None:
    bound = template(interconnect={"numaBinding": "CpusAndMemory"})
    assert engine(bound)["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYS_NICE"]}
    assert gate(bound)["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_two_gpus_are_asked_for_whatever_else_the_user_asks_for() -> None:
    asked = template(engine={"resources": {"limits": {"memory": "64Gi"}, "requests": {"cpu": "8"}}})
    assert engine(asked)["resources"] == {
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "2"},
        "requests": {"cpu": "8"},
    }


def claimed(**resources: Any) -> RawObject:
    container = {"name": "engine", "resources": {"claims": [{"name": "gpus"}], **resources}}
    claim = {"name": "gpus", "resourceClaimTemplateName": "two-gpus"}
    return {"spec": {"resourceClaims": [claim], "containers": [container]}}


def test_a_claim_of_the_engine_takes_the_place_of_the_two_gpus() -> None:
    made = engine(template(podTemplate=claimed()))["resources"]
    assert made == {"claims": [{"name": "gpus"}], "requests": {"cpu": "4", "memory": "32Gi"}}
    limited = engine(template(podTemplate=claimed(), engine={"resources": {"limits": {"memory": "64Gi"}}}))
    assert limited["resources"]["limits"] == {"memory": "64Gi"}


def test_gpus_that_are_asked_for_beside_a_claim_stay() -> None:
    made = engine(template(podTemplate=claimed(limits={"nvidia.com/gpu": "2"})))["resources"]
    assert made["limits"] == {"nvidia.com/gpu": "2"}


@pytest.mark.parametrize(
    "theirs",
    [
        {"spec": {"resourceClaims": [{"name": "nic", "resourceClaimName": "nic"}]}},
        {"spec": {"initContainers": [{"name": "gate", "resources": {"claims": [{"name": "nic"}]}}]}},
        {"spec": {"containers": [{"name": "engine", "resources": {"claims": []}}]}},
        {"spec": {"containers": [{"name": "engine", "resources": {"claims": "gpus"}}]}},
    ],
    ids=["of nobody", "of another container", "none", "mistyped"],
)
def test_a_claim_that_is_not_the_engines_takes_no_gpu_away(theirs: RawObject) -> None:
    assert engine(template(podTemplate=theirs))["resources"]["limits"] == {"nvidia.com/gpu": "2"}


POD_LIMIT = {"spec": {"resources": {"limits": {"memory": "48Gi"}}}}
REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing is set": ({}, {"cpu": "4", "memory": "32Gi"}),
    "a Custom engine may be tiny": ({"engine": {"profile": "Custom"}}, {"cpu": "10m", "memory": "256Mi"}),
    "a request": ({"engine": {"resources": {"requests": {"cpu": 8}}}}, {"cpu": 8, "memory": "32Gi"}),
    "a limit is the request too": ({"engine": {"resources": {"limits": {"memory": "16Gi"}}}}, {"cpu": "4"}),
    "both limits": ({"engine": {"resources": {"limits": {"memory": "16Gi", "cpu": "2"}}}}, {}),
    "another resource": (
        {"engine": {"resources": {"requests": {"a.b/c": "1"}}}},
        {"cpu": "4", "memory": "32Gi", "a.b/c": "1"},
    ),
    "a limit in podTemplate": (
        {"podTemplate": {"spec": {"containers": [{"name": "engine", "resources": {"limits": {"memory": "16Gi"}}}]}}},
        {"cpu": "4"},
    ),
    "a limit of the whole pod": ({"podTemplate": POD_LIMIT}, {"cpu": "4"}),
    "another container's limit": (
        {"podTemplate": {"spec": {"initContainers": [{"name": "gate", "resources": {"limits": {"memory": "1Gi"}}}]}}},
        {"cpu": "4", "memory": "32Gi"},
    ),
}


@pytest.mark.parametrize(("spec", "requests"), REQUESTS.values(), ids=REQUESTS.keys())
def test_an_engine_requests_cpu_and_memory_unless_the_user_sets_them(
    spec: dict[str, Any], requests: dict[str, Any]
) -> None:
    assert engine(template(**spec))["resources"].get("requests", {}) == requests


@pytest.mark.parametrize("resources", [[1], "4Gi", None, {"limits": [1]}, {"limits": None}])
def test_mistyped_resources_are_left_to_the_api_server(resources: Any) -> None:
    made = template(podTemplate={"spec": {"containers": [{"name": "engine", "resources": resources}]}})
    assert engine(made)["name"] == "engine"


def test_the_gate_is_a_native_sidecar_whose_probe_is_the_verdict() -> None:
    sidecar = gate(template())
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "gate", "scheme": "HTTP"}


def test_the_template_has_the_safe_flags_for_a_launcher_without_an_annotation() -> None:
    env = {variable["name"]: variable.get("value") for variable in engine(template())["env"]}
    fallback = FlagSet.parse_text(str(env["FLASH_FALLBACK_FLAGS"]))

    assert fallback.row == "T8"
    assert [argument.value for argument in fallback.args] == ["--disable-custom-all-reduce"]
    assert {variable.name: variable.value for variable in fallback.env}["NCCL_P2P_DISABLE"] == "1"


def test_replicas_are_spread_among_those_of_their_deployment() -> None:
    spread: list[dict[str, Any]] = [
        {"topologyKey": "kubernetes.io/hostname"},
        {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"},
    ]
    mine = {"labelSelector": {"matchLabels": {"deepseekflash.dev/deployment": "flash"}}}
    made = template(placement={"topologySpread": spread, "priorityClassName": "serving"})["spec"]
    assert made["topologySpreadConstraints"] == [
        {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", **mine},
        {**spread[1], **mine},
    ]
    assert made["priorityClassName"] == "serving"


def test_what_placement_does_not_say_is_not_in_the_template() -> None:
    """So that an operator that knows more fields changes no template."""
    assert not {"nodeSelector", "tolerations", "topologySpreadConstraints", "priorityClassName"} & set(
        template()["spec"]
    )


@pytest.mark.parametrize("drain", [60, 0])
def test_the_grace_period_covers_the_drain_and_the_engines_shutdown(drain: int) -> None:
    made = template(drain={"timeoutSeconds": drain})
    variables = {variable["name"]: variable.get("value") for variable in engine(made)["env"]}
    grace = made["spec"]["terminationGracePeriodSeconds"]
    assert variables["FLASH_DRAIN_SECONDS"] == str(drain)
    assert drain + int(str(variables["FLASH_STOP_SECONDS"])) < grace, "the exit must be written down before the end"
    assert engine(made)["lifecycle"]["preStop"]["exec"]["command"] == ["flash-drain"]


def test_the_engines_liveness_probe_asks_the_gate() -> None:
    probe = engine(template())["livenessProbe"]
    assert probe["httpGet"]["path"] == "/livez"
    assert probe["httpGet"]["port"] == 9400, "a name would be looked up among the engine's own ports"
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 60, "the gate may be started anew meanwhile"


def test_the_gate_mounts_its_pods_annotations() -> None:
    made = template()
    (gate,) = made["spec"]["initContainers"]
    (node,) = [volume for volume in made["spec"]["volumes"] if volume["name"] == "node"]
    assert [item["path"] for item in node["downwardAPI"]["items"]] == ["engine-flags", "floor", "quarantine"]
    assert {"name": "node", "mountPath": "/etc/flash/node", "readOnly": True} in gate["volumeMounts"]
    assert {"name": "FLASH_NODE_DIR", "value": "/etc/flash/node"} in gate["env"]


def test_each_downward_api_file_has_the_annotation_and_name_that_its_reader_expects() -> None:
    (node,) = [volume for volume in template()["spec"]["volumes"] if volume["name"] == "node"]
    assert {item["path"]: item["fieldRef"]["fieldPath"] for item in node["downwardAPI"]["items"]} == {
        FLAGS_FILE: f"metadata.annotations['{ENGINE_FLAGS_ANNOTATION}']",
        FLOOR_FILE: f"metadata.annotations['{FLOOR_ANNOTATION}']",
        QUARANTINE_FILE: f"metadata.annotations['{QUARANTINE_ANNOTATION}']",
    }


def test_an_engine_has_shared_memory_enough_for_nccl() -> None:
    """With the container runtime's default of 64 MiB, an engine without peer-to-peer fails at its start."""
    (shared,) = [mount["name"] for mount in engine(template())["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    (volume,) = [volume for volume in template()["spec"]["volumes"] if volume["name"] == shared]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}


def test_a_rollout_stops_one_replica_before_it_requests_more_gpus() -> None:
    made = deployment(a_flash(), template())["spec"]
    assert made["minReadySeconds"] > 0, "the operator must see how fast the new one is before the next one goes"
    strategy = made["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


def test_the_service_finds_the_pods() -> None:
    assert service(a_flash())["spec"]["selector"].items() <= template()["metadata"]["labels"].items()


def test_the_service_leads_to_the_engine() -> None:
    (port,) = service(a_flash())["spec"]["ports"]
    assert {port["targetPort"]: port["port"]} == {p["name"]: p["containerPort"] for p in engine(template())["ports"]}


def test_a_replica_that_serves_nobody_does_not_keep_its_node_from_being_drained() -> None:
    budget = disruption_budget(a_flash())["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert budget["selector"]["matchLabels"].items() <= template()["metadata"]["labels"].items()


PROFILES = {
    "LongContext": ["--max-model-len=524288", "--max-num-seqs=2", "--gpu-memory-utilization=0.93"],
    "Balanced": ["--max-model-len=262144", "--max-num-seqs=4", "--gpu-memory-utilization=0.95"],
    "Throughput": ["--max-model-len=131072", "--max-num-seqs=8", "--gpu-memory-utilization=0.90"],
}


@pytest.mark.parametrize(("profile", "expected"), PROFILES.items())
def test_a_profile_is_the_three_numbers_that_were_shown_to_fit(profile: str, expected: list[str]) -> None:
    assert set(expected) <= set(arguments(engine={"profile": profile}))


def test_the_default_arguments_in_full() -> None:
    assert arguments() == [
        "serve",
        "/models/v4",
        "--port=8000",
        "--served-model-name",
        "deepseek-v4-flash",
        "--tensor-parallel-size=2",
        "--max-model-len=262144",
        "--max-num-seqs=4",
        "--max-num-batched-tokens=2048",
        "--gpu-memory-utilization=0.95",
        "--cudagraph-capture-sizes",
        "2",
        "4",
        "6",
        "8",
        "--kv-cache-dtype=fp8",
        "--block-size=256",
        "--tokenizer-mode=deepseek_v4",
        "--tool-call-parser=deepseek_v4",
        "--enable-auto-tool-choice",
        "--reasoning-parser=deepseek_v4",
        '--speculative-config={"method":"mtp","num_speculative_tokens":1}',
    ]


def test_a_field_wins_over_its_profile() -> None:
    assert "--max-model-len=8192" in arguments(engine={"profile": "LongContext", "contextTokens": 8192})


def test_a_custom_engine_gets_only_the_users_arguments() -> None:
    custom = arguments(engine={"profile": "Custom", "contextTokens": 1024, "maxSequences": 4})
    assert not any(a.startswith(("--kv-cache-dtype", "--block-size", "--gpu-memory-utilization")) for a in custom)
    assert "--max-model-len=1024" in custom


@pytest.mark.parametrize(
    ("speculation", "config", "sizes"),
    [
        ({"tokens": 2}, '{"method":"mtp","num_speculative_tokens":2}', "3 6"),
        ({"method": "Dspark"}, '{"method":"dspark","num_speculative_tokens":5}', "6 12"),
        ({"method": "Dspark", "tokens": 3}, '{"method":"dspark","num_speculative_tokens":3}', "4 8"),
    ],
)
def test_a_drafter_gets_its_tokens_and_a_graph_for_each_number_of_streams(
    speculation: RawObject, config: str, sizes: str
) -> None:
    made = arguments(engine={"profile": "LongContext"}, speculation=speculation)
    assert f"--speculative-config={config}" in made
    assert f"--cudagraph-capture-sizes {sizes} --" in " ".join(made)


@pytest.mark.parametrize(("profile", "check"), [("Balanced", "strict"), ("Custom", "files")])
def test_the_launcher_looks_at_the_checkpoint_as_strictly_as_it_can(profile: str, check: str) -> None:
    made = template(engine={"profile": profile, "contextTokens": 1024, "maxSequences": 4})
    assert {"name": "FLASH_MODEL_CHECK", "value": check} in engine(made)["env"]


def test_disabled_speculation_passes_no_speculative_config() -> None:
    assert not any("speculative" in argument for argument in arguments(speculation={"method": "Disabled"}))


SOURCES = {
    "pvc://claim/deep/folder": (
        "/models/deep/folder",
        {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}},
    ),
    "pvc://claim": ("/models", {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}}),
    "oci://images.example/v4:1": (
        "/models",
        {"image": {"reference": "images.example/v4:1", "pullPolicy": "IfNotPresent"}},
    ),
}


@pytest.mark.parametrize(("uri", "expected"), SOURCES.items(), ids=SOURCES.keys())
def test_a_mounted_model_is_loaded_from_its_volume(uri: str, expected: tuple[str, RawObject]) -> None:
    path, volume = expected
    made = template(model={"source": uri})

    assert engine(made)["args"][1] == path
    assert {"name": "model", **volume} in made["spec"]["volumes"]
    assert {"name": "model", "mountPath": "/models", "readOnly": True} in engine(made)["volumeMounts"]
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in engine(made)["env"]


def test_the_gate_document_in_full() -> None:
    assert gate_settings(a_flash().spec).to_json() == {
        "version": 1,
        "model": "deepseek-v4-flash",
        "speculation": {"expected": True, "tokens": 1},
        "pluginRequired": True,
        "golden": {
            "kind": "chat",
            "prompt": "What is 17 + 25? Answer with the number only.",
            "expect": DEFAULT_ANSWER,
            "maxTokens": 32,
        },
        "longAnswer": {"kind": "chat", "prompt": LONG_QUESTION, "expect": LONG_ANSWER, "maxTokens": 160},
        "deterministic": False,
        "decode": {
            "minTokensPerSecond": 60,
            "prompt": "Write a long story about a lighthouse keeper.",
            "tokens": 128,
            "samples": 3,
            "streams": 1,
        },
        "longPrompt": {
            "tokens": 4096,
            "minPrefillTokensPerSecond": 500,
            "minDecodePercent": 75,
            "textIsJudged": True,
        },
        "fullDepth": None,
        "features": {"toolCalls": True, "reasoning": True, "jsonSchema": True, "required": False},
        "floorFrom": "Fixed",
        "serving": {"watchSeconds": 5, "tolerancePercent": 10, "stallSeconds": 60, "onDegraded": "Quarantine"},
        "minAcceptancePercent": 40,
        "minFirstDraftPercent": 40,
        "maxFirstTokenMillis": None,
        "startupTimeoutSeconds": 3582,
        "startupBudget": {"baseSeconds": 900, "secondsPerGibibyte": 18},
        "requestTimeoutSeconds": 120,
        "retrySeconds": 30,
    }


DRAFTERS: dict[str, tuple[dict[str, Any], dict[str, Any], float, float]] = {
    "of one MTP token is that of the first": ({}, {}, 40, 40),
    "of one MTP token as the user sets it": ({}, {"minAcceptancePercent": 60}, 60, 60),
    "of two MTP tokens is no share of both": ({"tokens": 2}, {"minAcceptancePercent": 60}, 35, 60),
    "of DSpark": ({"method": "Dspark"}, {}, 18.4, 40),
    "of DSpark with one token": ({"method": "Dspark", "tokens": 1}, {}, 40, 40),
    "of DSpark with three": ({"method": "Dspark", "tokens": 3}, {}, 26.67, 40),
    "of DSpark as a length": ({"method": "Dspark"}, {"minAcceptanceLengthPercent": 250}, 30, 40),
}


@pytest.mark.parametrize(("speculation", "readiness", "of_all", "of_first"), DRAFTERS.values(), ids=DRAFTERS.keys())
def test_the_acceptance_floor_of_a_drafter(
    speculation: dict[str, Any], readiness: dict[str, Any], of_all: float, of_first: float
) -> None:
    settings = gate_settings(a_flash(speculation=speculation, readiness=readiness).spec)
    assert (settings.min_acceptance_percent, settings.min_first_draft_percent) == (of_all, of_first)


CUSTOM = {"profile": "Custom", "maxSequences": 1}
FULL_DEPTHS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]] = {
    "not asked for": ({}, {}, None),
    "all but the answer and a margin": (
        {"depth": "Full", "decodeTokens": 100}, {**CUSTOM, "contextTokens": 8192},
        {"tokens": 8192 - 100 - 16, "minPrefillTokensPerSecond": None, "textIsJudged": False}),
    "with the floor of the long prompt": (
        {"depth": "Full", "minPrefillTokensPerSecond": 900}, {"contextTokens": 65536},
        {"tokens": 65536 - 128 - 16, "minPrefillTokensPerSecond": 900, "textIsJudged": True}),
    "a context that the long prompt fills": ({"depth": "Full"}, {**CUSTOM, "contextTokens": 1024}, None),
    "a context that has no room": ({"depth": "Full"}, {**CUSTOM, "contextTokens": 256}, None),
}  # fmt: skip


@pytest.mark.parametrize(("readiness", "engine", "asked"), FULL_DEPTHS.values(), ids=FULL_DEPTHS.keys())
def test_the_full_depth(readiness: dict[str, Any], engine: dict[str, Any], asked: dict[str, Any] | None) -> None:
    settings = gate_settings(a_flash(readiness=readiness, engine=engine).spec)
    assert settings.to_json()["fullDepth"] == asked


LONG_PROMPTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]] = {
    "as the user wants it": (
        {"promptTokens": 32768, "minPrefillTokensPerSecond": 900, "minDepthDecodePercent": 50}, {},
        {"tokens": 32768, "minPrefillTokensPerSecond": 900, "minDecodePercent": 50, "textIsJudged": True}),
    "as long as the context has room for": (
        {}, {**CUSTOM, "contextTokens": 1024},
        {"tokens": 896, "minPrefillTokensPerSecond": None, "minDecodePercent": 75, "textIsJudged": False}),
    "none in a context that has no room": ({}, {**CUSTOM, "contextTokens": 256}, None),
    "of a Custom engine with a floor": (
        {"minPrefillTokensPerSecond": 7}, {**CUSTOM, "contextTokens": 8192},
        {"tokens": 4096, "minPrefillTokensPerSecond": 7, "minDecodePercent": 75, "textIsJudged": False}),
}  # fmt: skip


@pytest.mark.parametrize(("readiness", "engine", "asked"), LONG_PROMPTS.values(), ids=LONG_PROMPTS.keys())
def test_the_long_prompt(readiness: dict[str, Any], engine: dict[str, Any], asked: dict[str, Any] | None) -> None:
    settings = gate_settings(a_flash(readiness=readiness, engine=engine).spec)
    assert settings.to_json()["longPrompt"] == asked


INVARIANT = {"extraEnv": [{"name": "VLLM_BATCH_INVARIANT", "value": "1"}]}
OWN_QUESTION = {"golden": {"prompt": "What is the capital of France?", "expect": "Paris"}}
QUESTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], bool, bool]] = {
    "by default": ({}, {}, True, False),
    "to a question of the user's own": (OWN_QUESTION, {}, False, False),
    "in a context that has no room for it": ({}, {**CUSTOM, "contextTokens": 200}, False, False),
    "of an engine that rounds the same in each batch": ({}, INVARIANT, True, True),
    "of an engine for which that is off": (
        {}, {"extraEnv": [{"name": "VLLM_BATCH_INVARIANT", "value": "0"}]}, True, False),
}  # fmt: skip


@pytest.mark.parametrize(("readiness", "engine", "asked", "deterministic"), QUESTIONS.values(), ids=QUESTIONS.keys())
def test_the_long_answer(
    readiness: dict[str, Any], engine: dict[str, Any], *, asked: bool, deterministic: bool
) -> None:
    settings = gate_settings(a_flash(readiness=readiness, engine=engine).spec)
    assert (settings.long_answer is not None, settings.deterministic) == (asked, deterministic)


WITH_TOOLS = {**CUSTOM, "contextTokens": 8192, "extraArgs": ["--tool-call-parser=hermes", "--enable_auto_tool_choice"]}
FEATURES: dict[str, tuple[str, dict[str, Any], tuple[bool, bool, bool, bool] | None]] = {
    "of the model": ("Warn", {}, (True, True, True, False)),
    "of the model, required": ("Require", {}, (True, True, True, True)),
    "that nobody wants to know of": ("Skip", {}, None),
    "of a Custom engine without parsers": ("Require", {**CUSTOM, "contextTokens": 8192}, None),
    "of a Custom engine with tools": ("Warn", WITH_TOOLS, (True, False, False, False)),
    "of a Custom engine with a parser of calls that nobody may make": (
        "Warn", {**WITH_TOOLS, "extraArgs": ["--tool-call-parser", "hermes", "--reasoning-parser", "qwen3"]},
        (False, True, False, False)),
    "in a small context": ("Warn", {"contextTokens": 512}, None),
}  # fmt: skip


@pytest.mark.parametrize(("readiness", "engine", "tried"), FEATURES.values(), ids=FEATURES.keys())
def test_the_features(readiness: str, engine: dict[str, Any], tried: tuple[bool, bool, bool, bool] | None) -> None:
    tests = gate_settings(a_flash(readiness={"features": readiness}, engine=engine).spec).features
    assert (tests and (tests.tool_calls, tests.reasoning, tests.json_schema, tests.required)) == tried


def test_the_gate_finds_its_configuration() -> None:
    made = template()
    (volume,) = [volume["name"] for volume in made["spec"]["volumes"] if "configMap" in volume]
    (folder,) = [mount["mountPath"] for mount in gate(made)["volumeMounts"] if mount["name"] == volume]
    (file,) = gate_config(a_flash().spec, a_flash(), "flash-gate-0")["data"]
    assert {"name": "FLASH_GATE_CONFIG", "value": f"{folder}/{file}"} in gate(made)["env"]


MERGES = {
    "a label is added": (
        {"metadata": {"labels": {"a": "1"}}},
        {"metadata": {"labels": {"b": "2"}}},
        {"metadata": {"labels": {"a": "1", "b": "2"}}},
    ),
    "an environment variable of the engine is set, by container and by name": (
        {"containers": [{"name": "engine", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}]}]},
        {"containers": [{"name": "engine", "env": [{"name": "B", "value": "2"}]}]},
        {"containers": [{"name": "engine", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]},
    ),
    "a second container is appended": (
        {"containers": [{"name": "engine"}]},
        {"containers": [{"name": "logger", "image": "x"}]},
        {"containers": [{"name": "engine"}, {"name": "logger", "image": "x"}]},
    ),
    "a null removes": ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
    "a list without a merge key is replaced": ({"args": ["x"]}, {"args": ["y"]}, {"args": ["y"]}),
}


@pytest.mark.parametrize(("ours", "theirs", "merged"), MERGES.values(), ids=MERGES.keys())
def test_the_users_pod_template_is_merged_strategically(ours: RawObject, theirs: RawObject, merged: RawObject) -> None:
    before = json.dumps(ours)
    assert merge(ours, theirs) == merged
    assert json.dumps(ours) == before, "the argument was changed"


def test_keys_of_clients_are_mounted_from_their_secret_and_written_nowhere() -> None:
    made = template(engine={"apiKeysSecret": "clients"})
    mount = {"name": "api-keys", "mountPath": "/etc/flash/api-keys", "readOnly": True}
    for container in (engine(made), gate(made)):
        assert mount in container["volumeMounts"]
        assert {"name": API_KEYS_DIR, "value": mount["mountPath"]} in container["env"]
    (volume,) = [volume for volume in made["spec"]["volumes"] if volume["name"] == "api-keys"]
    assert volume["secret"] == {"secretName": "clients", "defaultMode": 0o440, "optional": True}
    assert API_KEYS_ARGUMENT in engine(made)["args"]
    assert not any("api-key" in argument for argument in engine(template())["args"])


def test_keys_of_clients_are_for_engine_and_gate_only() -> None:
    made = template(model={"source": "hf://owner/name"}, engine={"apiKeysSecret": "clients"})
    (fetch,) = [container for container in made["spec"]["initContainers"] if container["name"] == "fetch"]
    assert "api-keys" not in json.dumps(fetch)


@pytest.mark.parametrize("name", ALLOCATOR)
def test_the_allocator_counts_where_podtemplate_sets_it(name: str) -> None:
    """It overrides extraEnv, as in the final pod."""
    fast = {"interconnect": {"customAllReduce": "Enabled"}}
    bad, good = ({"name": name, "value": value} for value in ("expandable_segments:True", "max_split_size_mb:64"))
    assert fallback(**fast, podTemplate=engine_patch(env=[bad])).unset == (name,)
    assert fallback(**fast, engine={"extraEnv": [bad]}, podTemplate=engine_patch(env=[good])).unset == ()


def engine_patch(**container: Any) -> RawObject:
    return {"spec": {"containers": [{"name": "engine", **container}]}}


def fallback(**spec: Any) -> FlagSet:
    env = {variable["name"]: variable.get("value") for variable in engine(template(**spec))["env"]}
    return FlagSet.parse_text(str(env[FALLBACK_FLAGS]))
