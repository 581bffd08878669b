"""The gate's ConfigMap.

Floors live here and not in the pod template, so that changing one re-judges the running replicas by the figures
they already measured, instead of restarting 149 GiB of weights.
"""

import json

from flash_operator.api.rules import GOLDEN_ANSWER_TOKENS
from flash_operator.api.v1alpha1 import FlashDeployment, FlashSpec
from flash_operator.core.engine_args import max_sequences
from flash_operator.core.observed import RawObject
from flash_operator.core.resources.identity import metadata

GATE_FILE = "gate.json"

CHECKPOINT_GIB = 149
"""DeepSeek-V4-Flash: 46 shards, 148.66 GiB."""

STARTUP_BASE_SECONDS = 15 * 60
STARTUP_SECONDS_PER_GIB = 18
STARTUP_SECONDS = STARTUP_BASE_SECONDS + STARTUP_SECONDS_PER_GIB * CHECKPOINT_GIB
"""KAITO's measured budget for weights from cold storage: 15 minutes and 18 s for each GiB
(kaito-project/kaito docs/proposals/20260722-deepseek-v4-onboarding.md). The gate scales it by the checkpoint that is
really there; this is for what it does not know the size of."""

DECODE_PROMPT = "Write a long story about a lighthouse keeper."


def gate_config_name(flash: FlashDeployment) -> str:
    return f"{flash.name}-gate"


def gate_config(flash: FlashDeployment) -> RawObject:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(flash, gate_config_name(flash)),
        "data": {GATE_FILE: json.dumps(gate_document(flash.spec), indent=2, sort_keys=True)},
    }


def startup_seconds(spec: FlashSpec) -> int:
    return spec.readiness.startup_timeout_seconds or STARTUP_SECONDS


def _startup_budget(spec: FlashSpec) -> RawObject | None:
    """None where the user said how long it may take."""
    if spec.readiness.startup_timeout_seconds is not None:
        return None
    return {"baseSeconds": STARTUP_BASE_SECONDS, "secondsPerGibibyte": STARTUP_SECONDS_PER_GIB}


def _plugin_required(spec: FlashSpec) -> bool:
    """A Custom engine may be an image of its owner's; and with VLLM_PLUGINS a user may do without on purpose."""
    chosen = any(variable.name == "VLLM_PLUGINS" for variable in spec.engine.extra_env)
    return spec.engine.profile != "Custom" and not chosen


def gate_document(spec: FlashSpec) -> RawObject:
    """What `flash_engine.gate` reads; both sides keep to the same document (docs/architecture.md)."""
    readiness = spec.readiness
    return {
        "version": 1,
        "model": spec.model.served_names[0],
        "speculation": {"expected": spec.speculation.method != "Disabled", "tokens": spec.speculation.drafted_tokens},
        "pluginRequired": _plugin_required(spec),
        "golden": {
            "kind": readiness.golden.kind.lower(),
            "prompt": readiness.golden.prompt,
            "expect": readiness.golden.expected,
            "maxTokens": GOLDEN_ANSWER_TOKENS,
        },
        "decode": {
            "minTokensPerSecond": readiness.min_decode_tokens_per_second,
            "prompt": DECODE_PROMPT,
            "tokens": readiness.decode_tokens,
            "samples": readiness.samples,
            "streams": max_sequences(spec.engine) if readiness.streams == "Full" else 1,
        },
        "floorFrom": readiness.floor,
        "serving": {
            "watchSeconds": readiness.serving.watch_seconds,
            "tolerancePercent": readiness.serving.tolerance_percent,
            "stallSeconds": readiness.serving.stall_seconds,
            "onDegraded": readiness.serving.on_degraded,
        },
        "minAcceptancePercent": readiness.min_acceptance_percent,
        "maxFirstTokenMillis": readiness.max_first_token_millis,
        "startupTimeoutSeconds": startup_seconds(spec),
        "startupBudget": _startup_budget(spec),
        "requestTimeoutSeconds": readiness.request_timeout_seconds,
        "retrySeconds": readiness.retry_seconds,
    }
