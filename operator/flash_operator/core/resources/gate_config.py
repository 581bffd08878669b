"""Builds the gate's ConfigMap, one for each pod template.

Floors are here and not in the pod template, so that changing one judges running replicas by their existing figures
instead of restarting them, which loads 149 GiB. Only the ConfigMap of the template that the spec asks for follows the
spec: the replicas of an older one are judged by what was asked of them.
"""

import hashlib
import json
from typing import Any

from flash_contracts.gate_config import (
    FILE,
    DecodeTest,
    ExpectedSpeculation,
    FeatureTests,
    FullDepthTest,
    GateConfig,
    GoldenQuestion,
    LongPromptTest,
    ServingWatch,
    StartupBudget,
)
from flash_operator.api.rules import DEFAULT_PREFILL_FLOOR, GOLDEN_ANSWER_TOKENS
from flash_operator.api.v1alpha1 import (
    DEFAULT_QUESTION,
    LONG_ANSWER,
    LONG_QUESTION,
    FlashDeployment,
    FlashSpec,
    GoldenSpec,
    ServingSpec,
)
from flash_operator.core.observed.kube import entries_of
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.engine_args import context_tokens, max_sequences, vllm_arguments
from flash_operator.core.resources.identity import metadata

CHECKPOINT_GIB = 149
"""DeepSeek-V4-Flash: 46 shards, 148.66 GiB."""

STARTUP_BASE_SECONDS = 15 * 60
STARTUP_SECONDS_PER_GIB = 18
STARTUP_SECONDS = STARTUP_BASE_SECONDS + STARTUP_SECONDS_PER_GIB * CHECKPOINT_GIB
"""KAITO's measured budget for weights from cold storage: 15 minutes and 18 s for each GiB
(kaito-project/kaito docs/proposals/20260722-deepseek-v4-onboarding.md). The gate scales it by the real size of the
checkpoint; this is for checkpoints of unknown size."""

ACCEPTANCE_LENGTHS: dict[str, tuple[int, ...]] = {"Mtp": (140, 170), "Dspark": (140, 166, 180, 188, 192)}
"""Lowest mean acceptance length in percent of a token, by method, for 1, 2, ... drafted tokens.

The accepted tokens are a good half (0.54) of a healthy drafter's: MTP 0.7 to 0.87 of the first and 1.35 to 1.39 of two
(jasl/vllm-ds4-sm120-harness, 2026-05); DSpark 0.74, 0.48 and 0.26 by position (as its users report), and about half as
many at each further one. A share of all drafted tokens could not be one floor: five of DSpark's have 34 %."""

LONG_ANSWER_TOKENS = 160
"""Thirty numbers, their commas and spaces are 60 to 90."""

FEATURE_CONTEXT = 1024
"""Room for a question with a tool, and for an answer with its thoughts."""

PROMPT_TOKENS = 4096
DEPTH_DECODE_PERCENT = 75
CONTEXT_MARGIN = 16
"""Tokens of the context that are left free: a tokenizer may add some at the beginning."""
LEAST_PROMPT_TOKENS = 256
"""A shorter prompt says nothing that the short one does not."""

DECODE_PROMPT = "Write a long story about a lighthouse keeper."


GATE_VOLUME = "gate"


def with_own_gate_config(flash: FlashDeployment, template: RawObject) -> RawObject:
    """The template with a gate configuration that no other template has, unless the user named another one."""
    if gate_config_name(template) != default_gate_config_name(flash):
        return template
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return with_gate_config_name(template, f"{default_gate_config_name(flash)}-{digest}")


def with_gate_config_name(template: RawObject, name: str) -> RawObject:
    """The template whose gate reads the ConfigMap `name`."""
    if gate_config_name(template) is None:
        return template
    volumes = [
        {**volume, "configMap": {**volume["configMap"], "name": name}} if _is_gate_volume(volume) else volume
        for volume in template["spec"]["volumes"]
    ]
    return {**template, "spec": {**template["spec"], "volumes": volumes}}


def gate_config_name(template: RawObject) -> str | None:
    """The ConfigMap that the gate of a template or pod reads; None if `podTemplate` replaced the volume."""
    volumes = entries_of(template, "spec", "volumes")
    return next((str(volume["configMap"]["name"]) for volume in volumes if _is_gate_volume(volume)), None)


def default_gate_config_name(flash: FlashDeployment) -> str:
    """Operators before 0.2 had this one for all templates."""
    return f"{flash.name}-gate"


def is_own_gate_config(flash: FlashDeployment, name: str | None) -> bool:
    """The ConfigMap is one that this operator makes, and not one that the user named in `podTemplate`."""
    default = default_gate_config_name(flash)
    return name is not None and (name == default or name.startswith(f"{default}-"))


def _is_gate_volume(volume: Any) -> bool:
    config_map = volume.get("configMap") if isinstance(volume, dict) and volume.get("name") == GATE_VOLUME else None
    return isinstance(config_map, dict) and "name" in config_map


def gate_config(spec: FlashSpec, flash: FlashDeployment, name: str) -> RawObject:
    """The ConfigMap `name` for a template that was made from `spec`."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(flash, name),
        "data": {FILE: json.dumps(gate_settings(spec).to_json(), indent=2, sort_keys=True)},
    }


def startup_seconds(spec: FlashSpec) -> int:
    return spec.readiness.startup_timeout_seconds or STARTUP_SECONDS


def _startup_budget(spec: FlashSpec) -> StartupBudget | None:
    """None if the user set a timeout."""
    if spec.readiness.startup_timeout_seconds is not None:
        return None
    return StartupBudget(base_seconds=STARTUP_BASE_SECONDS, seconds_per_gibibyte=STARTUP_SECONDS_PER_GIB)


def _plugin_required(spec: FlashSpec) -> bool:
    """Not for Custom engines, which may use any image, nor if the user selects plugins with VLLM_PLUGINS."""
    chosen = any(variable.name == "VLLM_PLUGINS" for variable in spec.engine.extra_env)
    return spec.engine.profile != "Custom" and not chosen


def gate_settings(spec: FlashSpec) -> GateConfig:
    return GateConfig(
        model=spec.model.served_names[0],
        speculation=ExpectedSpeculation(
            expected=spec.speculation.method != "Disabled", tokens=spec.speculation.drafted_tokens
        ),
        plugin_required=_plugin_required(spec),
        golden=_question(spec.readiness.golden),
        long_answer=_long_question(spec),
        deterministic=_is_deterministic(spec),
        decode=_decode_test(spec),
        long_prompt=_long_prompt(spec),
        full_depth=_full_depth(spec),
        features=_features(spec),
        floor_from=spec.readiness.floor,
        serving=_serving_watch(spec.readiness.serving),
        min_acceptance_percent=_share_of_drafted(spec),
        min_first_draft_percent=spec.readiness.min_acceptance_percent,
        max_first_token_millis=spec.readiness.max_first_token_millis,
        startup_timeout_seconds=startup_seconds(spec),
        startup_budget=_startup_budget(spec),
        request_timeout_seconds=spec.readiness.request_timeout_seconds,
        retry_seconds=spec.readiness.retry_seconds,
    )


def acceptance_length_percent(spec: FlashSpec) -> int:
    """Floor of the mean acceptance length: the user's, or the method's. 100 without drafts."""
    lengths = ACCEPTANCE_LENGTHS.get(spec.speculation.method, ())
    number = spec.speculation.drafted_tokens
    return spec.readiness.min_acceptance_length_percent or (lengths[number - 1] if number <= len(lengths) else 100)


def _share_of_drafted(spec: FlashSpec) -> float:
    """The same floor as a share of all drafted tokens, in percent.

    Gates before 0.2 read no other. Where one token is drafted, it is the first.
    """
    number = spec.speculation.drafted_tokens
    share = (acceptance_length_percent(spec) - 100) / number
    first = spec.readiness.min_acceptance_percent if number == 1 else 0
    return round(max(share, first), 2)


def _question(golden: GoldenSpec) -> GoldenQuestion:
    return GoldenQuestion(
        kind="chat" if golden.kind == "Chat" else "completion",
        prompt=golden.prompt,
        expect=golden.expected,
        max_tokens=GOLDEN_ANSWER_TOKENS,
    )


def _long_question(spec: FlashSpec) -> GoldenQuestion | None:
    """None if the user asks a question of their own, whose model may not be able to count, or if it does not fit."""
    golden, context = spec.readiness.golden, context_tokens(spec.engine) or 0
    if golden.prompt != DEFAULT_QUESTION or golden.kind != "Chat":
        return None
    if context < len(LONG_QUESTION) + LONG_ANSWER_TOKENS:
        return None
    return GoldenQuestion(kind="chat", prompt=LONG_QUESTION, expect=LONG_ANSWER, max_tokens=LONG_ANSWER_TOKENS)


def _is_deterministic(spec: FlashSpec) -> bool:
    """vLLM promises equal answers to equal questions only in this mode."""
    return any(v.name == "VLLM_BATCH_INVARIANT" and v.value == "1" for v in spec.engine.extra_env)


def _decode_test(spec: FlashSpec) -> DecodeTest:
    readiness = spec.readiness
    return DecodeTest(
        min_tokens_per_second=readiness.min_decode_tokens_per_second,
        prompt=DECODE_PROMPT,
        tokens=readiness.decode_tokens,
        samples=readiness.samples,
        streams=max_sequences(spec.engine) if readiness.streams == "Full" else 1,
    )


def _long_prompt(spec: FlashSpec) -> LongPromptTest | None:
    """None if the context has no room for one."""
    readiness, context = spec.readiness, context_tokens(spec.engine) or 0
    tokens = min(readiness.prompt_tokens or PROMPT_TOKENS, context - readiness.decode_tokens)
    if tokens < LEAST_PROMPT_TOKENS:
        return None
    default = None if spec.engine.profile == "Custom" else DEFAULT_PREFILL_FLOOR
    return LongPromptTest(
        tokens=tokens,
        min_prefill_tokens_per_second=readiness.min_prefill_tokens_per_second or default,
        text_is_judged=spec.engine.profile != "Custom",
        min_decode_percent=readiness.min_depth_decode_percent or DEPTH_DECODE_PERCENT,
    )


def _full_depth(spec: FlashSpec) -> FullDepthTest | None:
    """None if the user does not ask for it, or if the long prompt fills the context already."""
    readiness, shorter = spec.readiness, _long_prompt(spec)
    tokens = (context_tokens(spec.engine) or 0) - readiness.decode_tokens - CONTEXT_MARGIN
    if readiness.depth != "Full" or shorter is None or tokens <= shorter.tokens:
        return None
    return FullDepthTest(
        tokens=tokens,
        min_prefill_tokens_per_second=shorter.min_prefill_tokens_per_second,
        text_is_judged=shorter.text_is_judged,
    )


def _features(spec: FlashSpec) -> FeatureTests | None:
    """What the engine's arguments switch on. None if nothing is, if the user skips it, or if it would not fit."""
    given = {argument.split("=")[0].split(".")[0].replace("_", "-") for argument in vllm_arguments(spec)}
    chats = (context_tokens(spec.engine) or 0) >= FEATURE_CONTEXT
    calls_tools = "--tool-call-parser" in given and "--enable-auto-tool-choice" in given
    tests = FeatureTests(
        tool_calls=calls_tools and "--no-enable-auto-tool-choice" not in given,
        reasoning="--reasoning-parser" in given,
        json_schema=spec.engine.profile != "Custom" or "--structured-outputs-config" in given,
        required=spec.readiness.features == "Require",
    )
    is_tried = spec.readiness.features != "Skip" and chats
    return tests if is_tried and (tests.tool_calls or tests.reasoning or tests.json_schema) else None


def _serving_watch(serving: ServingSpec) -> ServingWatch:
    return ServingWatch(
        watch_seconds=serving.watch_seconds,
        tolerance_percent=serving.tolerance_percent,
        stall_seconds=serving.stall_seconds,
        on_degraded=serving.on_degraded,
    )
