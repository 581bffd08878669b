"""The gate's ConfigMap.

Floors live here and not in the pod template, so that changing one re-judges the running replicas by the figures
they already measured, instead of restarting 149 GiB of weights.
"""

import json

from flash_operator.api.v1alpha1 import FlashDeployment, FlashSpec
from flash_operator.core.observed import RawObject
from flash_operator.core.resources.identity import metadata

GATE_FILE = "gate.json"

CHECKPOINT_GIB = 149
"""DeepSeek-V4-Flash: 46 shards, 148.66 GiB."""

STARTUP_SECONDS = 15 * 60 + 18 * CHECKPOINT_GIB
"""KAITO's measured budget for weights from cold storage: 15 minutes and 18 s for each GiB
(kaito-project/kaito docs/proposals/20260722-deepseek-v4-onboarding.md)."""

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


def gate_document(spec: FlashSpec) -> RawObject:
    """What `flash_engine.gate` reads; both sides keep to the same document (docs/architecture.md)."""
    readiness = spec.readiness
    return {
        "version": 1,
        "model": spec.model.served_names[0],
        "speculation": {"expected": spec.speculation.method != "Disabled", "tokens": spec.speculation.tokens},
        "golden": {
            "kind": readiness.golden.kind.lower(),
            "prompt": readiness.golden.prompt,
            "expect": readiness.golden.expected,
            "maxTokens": 32,
        },
        "decode": {
            "minTokensPerSecond": readiness.min_decode_tokens_per_second,
            "prompt": DECODE_PROMPT,
            "tokens": readiness.decode_tokens,
            "samples": readiness.samples,
        },
        "minAcceptancePercent": readiness.min_acceptance_percent,
        "maxFirstTokenMillis": readiness.max_first_token_millis,
        "startupTimeoutSeconds": startup_seconds(spec),
        "requestTimeoutSeconds": readiness.request_timeout_seconds,
        "retrySeconds": readiness.retry_seconds,
    }
