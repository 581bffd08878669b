"""CEL rules: what must hold between fields, refused by the API server with a sentence that says what to write."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """One `x-kubernetes-validations` entry. `where` is the field below that the message belongs to."""

    rule: str
    message: str
    where: str | None = None

    def document(self) -> dict[str, Any]:
        made = {"rule": self.rule, "message": self.message}
        if self.where:
            made["fieldPath"] = self.where
        return made


OWNED_ARGUMENTS = {
    "--host": "the pod decides it",
    "--port": "the Service needs 8000",
    "--model": "use model.source",
    "--revision": "use model.revision",
    "--served-model-name": "use model.servedNames",
    "--max-model-len": "use engine.contextTokens",
    "--max-num-seqs": "use engine.maxSequences",
    "--max-num-batched-tokens": "use engine.batchedTokens",
    "--gpu-memory-utilization": "use engine.memoryPercent",
    "--speculative-config": "use speculation",
    "--disable-custom-all-reduce": "use interconnect.customAllReduce",
    "--api-key": "arguments are readable by everybody who may read pods; use podTemplate with a Secret",
}
"""vLLM arguments that a field of the spec stands for. Given twice, the gate would judge another engine."""


def _owned(argument: str, instead: str) -> Rule:
    return Rule(
        f"!self.exists(a, a == '{argument}' || a.startsWith('{argument}='))",
        f"{argument} may not be given here: {instead}",
    )


_SAFE_NCCL = (
    Rule(
        "!self.exists(v, v.name == 'NCCL_SHM_DISABLE')",
        "NCCL_SHM_DISABLE may not be set: without shared memory NCCL falls to sockets",
    ),
    Rule(
        "!self.exists(v, v.name == 'NCCL_PROTO' && v.value.contains('LL128'))",
        "NCCL_PROTO may not contain LL128: over PCIe it corrupts data; leave it unset or use LL or Simple",
    ),
)

_RESERVED = Rule(
    "!self.exists(v, v.name.startsWith('FLASH_'))",
    "names that begin with FLASH_ are the operator's own; choose another name",
)

RULES: dict[str, tuple[Rule, ...]] = {
    "model.source": (
        Rule(
            "self == oldSelf",
            "model.source cannot be changed: another checkpoint is another deployment; create one beside this",
        ),
    ),
    "model": (
        Rule(
            "!has(self.revision) || self.source.startsWith('hf://')",
            "revision belongs to an hf:// source: pin an oci:// image by its digest, and leave it out for pvc://",
            ".revision",
        ),
    ),
    "engine": (
        Rule(
            "self.profile != 'Custom' || (has(self.contextTokens) && has(self.maxSequences))",
            "profile Custom needs contextTokens and maxSequences: set both, or choose another profile",
            ".profile",
        ),
        Rule(
            "!has(self.batchedTokens) || !has(self.maxSequences) || self.batchedTokens >= self.maxSequences",
            "batchedTokens must be at least maxSequences: each sequence decodes one token in a step",
            ".batchedTokens",
        ),
    ),
    "engine.extraArgs": tuple(_owned(argument, instead) for argument, instead in OWNED_ARGUMENTS.items()),
    "engine.extraEnv": (_RESERVED, *_SAFE_NCCL),
    "interconnect": (
        Rule(
            "self.mode != 'Safe' || self.customAllReduce != 'Enabled'",
            "mode Safe means no peer-to-peer, which customAllReduce Enabled needs: set one of them to Auto",
            ".customAllReduce",
        ),
        Rule(
            "self.mode != 'Safe' || !self.env.exists(v, v.name == 'NCCL_P2P_DISABLE' && v.value == '0')",
            "mode Safe means no peer-to-peer: remove NCCL_P2P_DISABLE=0 from env, or set mode to Auto",
            ".env",
        ),
    ),
    "interconnect.env": (
        Rule(
            "self.all(v, v.name.startsWith('NCCL_') || v.name.startsWith('VLLM_'))",
            "only NCCL_ and VLLM_ variables belong here; put others into engine.extraEnv",
        ),
        *_SAFE_NCCL,
    ),
    "readiness": (
        Rule(
            "!has(self.startupTimeoutSeconds) || self.startupTimeoutSeconds >= self.retrySeconds",
            "startupTimeoutSeconds must be at least retrySeconds",
            ".startupTimeoutSeconds",
        ),
        Rule(
            "!has(self.maxFirstTokenMillis) || self.maxFirstTokenMillis <= self.requestTimeoutSeconds * 1000",
            "maxFirstTokenMillis is above requestTimeoutSeconds, so it could never be reached: lower it",
            ".maxFirstTokenMillis",
        ),
    ),
}
"""By the path of the field below `spec`. Strings and lists are bounded in the models, so that each rule is cheap."""
