"""CEL rules: what must hold between fields, refused by the API server with a sentence that says what to write.

Every rule holds for a spec whose defaults are filled in, for that is what the API server evaluates. So "was it given?"
can only be asked (`has`) of a field without a default.
"""

from flash_operator.api.cel_rule import Rule
from flash_operator.api.model_rules import MODEL_RULES
from flash_operator.api.v1alpha1 import DEFAULT_QUESTION

OWNED_ARGUMENTS = {
    "--host": "the pod decides it",
    "--port": "the Service needs 8000",
    "--uds": "the Service needs port 8000",
    "--ssl-keyfile": "the gate speaks plain HTTP inside the pod; end TLS in front of the Service",
    "--ssl-certfile": "the gate speaks plain HTTP inside the pod; end TLS in front of the Service",
    "--api-key": "the gate asks without a key, and everybody who may read pods could read it; "
    "authenticate in front of the Service",
    "--config": "write its lines as arguments, or use the fields of the spec",
    "--model": "use model.source",
    "--revision": "use model.revision",
    "--served-model-name": "use model.servedNames",
    "--max-model-len": "use engine.contextTokens",
    "--max-num-seqs": "use engine.maxSequences",
    "--max-num-batched-tokens": "use engine.batchedTokens",
    "--gpu-memory-utilization": "use engine.memoryPercent",
    "--speculative-config": "use speculation",
    "-sc": "use speculation",
    "--spec-method": "use speculation.method",
    "--spec-model": "use speculation.method",
    "--spec-tokens": "use speculation.tokens",
    "--disable-custom-all-reduce": "use interconnect.customAllReduce",
    "--no-disable-custom-all-reduce": "use interconnect.customAllReduce",
    "--disable-log-stats": "the gate reads drafts and tokens from the engine's metrics; leave it out",
}
"""vLLM arguments that a field of the spec stands for, or that the gate depends on.

Given twice, the gate would judge another engine than it thinks.
"""


def _owned(argument: str, instead: str) -> Rule:
    """Refuse every spelling that vLLM takes for the argument.

    Its parser reads `_` as `-`, cuts `--json-arg.key` at the dot, and like every argparse takes a prefix for the
    whole (vllm/utils/argparse_utils.py, FlexibleArgumentParser).
    """
    given = "a.split('=')[0].split('.')[0]"
    name = f"{given}.replace('_', '-')"
    spelt = f"a.startsWith('--') && size({name}) > 2 && '{argument}'.startsWith({name})"
    is_short = not argument.startswith("--")
    return Rule(
        f"!self.exists(a, {given} == '{argument}')" if is_short else f"!self.exists(a, {spelt})",
        f"{argument} may not be given here: {instead}",
    )


SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_TOKEN")
OPERATORS_OWN = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_OFFLINE")
"""Variables that the pod template sets; a second entry of the same name would make it unacceptable."""


def _one_of(names: tuple[str, ...]) -> str:
    return f"v.name in [{', '.join(repr(name) for name in names)}]"


_SAFE_NCCL = (
    Rule(
        "!self.exists(v, v.name == 'NCCL_SHM_DISABLE')",
        "NCCL_SHM_DISABLE may not be set: without shared memory NCCL falls to sockets; remove it",
    ),
    Rule(
        "!self.exists(v, v.name == 'NCCL_PROTO' && (v.value.upperAscii().contains('LL128') || v.value.contains('^')))",
        "NCCL_PROTO may contain neither LL128 nor ^, which forces LL128 too: over PCIe it corrupts data; leave it "
        "unset or use LL or Simple",
    ),
)

GOLDEN_ANSWER_TOKENS = 32
"""Of one golden answer; both sides of the gate's document keep to it."""

_GOLDEN_FITS = Rule(
    "!has(self.engine.contextTokens) || "
    f"size(self.readiness.golden.prompt) + {GOLDEN_ANSWER_TOKENS} <= self.engine.contextTokens",
    "readiness.golden.prompt may not fit into engine.contextTokens: shorten it, or raise contextTokens",
    ".readiness.golden.prompt",
    f"'readiness.golden.prompt has %d characters, each of which may be a token, and its answer needs "
    f"{GOLDEN_ANSWER_TOKENS}: that may not fit into engine.contextTokens %d; shorten it, or raise contextTokens'"
    ".format([size(self.readiness.golden.prompt), self.engine.contextTokens])",
)

_NO_DSPARK = Rule(
    "self.speculation.method != 'Dspark' || !has(self.model.restoreMtp) || self.model.restoreMtp.state != 'Enabled'",
    "restoreMtp gives the checkpoint an MTP head, which speculation.method Dspark does not use: set it to Mtp, or "
    "remove restoreMtp",
    ".speculation.method",
)

_SPEC = (
    Rule(
        "!has(self.engine.contextTokens) || self.readiness.decodeTokens < self.engine.contextTokens",
        "readiness.decodeTokens must be less than engine.contextTokens, for the prompt needs room too: "
        "lower decodeTokens",
        ".readiness.decodeTokens",
    ),
    _GOLDEN_FITS,
    _NO_DSPARK,
    Rule(
        "self.readiness.streams != 'Full' || !has(self.engine.maxSequences) || self.engine.maxSequences > 1",
        "readiness.streams Full means engine.maxSequences requests at once, which is 1: set streams to One",
        ".readiness.streams",
    ),
    Rule(
        "self.interconnect.customAllReduce != 'Enabled' || !self.engine.extraEnv.exists(v, "
        "v.name == 'PYTORCH_CUDA_ALLOC_CONF' && v.value.contains('expandable_segments:True'))",
        "PYTORCH_CUDA_ALLOC_CONF with expandable_segments makes custom all-reduce crash: remove it, "
        "or set interconnect.customAllReduce to Auto",
        ".engine.extraEnv",
    ),
)

_ENGINE = (
    Rule(
        "self.profile != 'Custom' || (has(self.contextTokens) && has(self.maxSequences))",
        "profile Custom needs contextTokens and maxSequences; set both, or choose LongContext, Balanced or Throughput",
        ".profile",
    ),
    Rule(
        "!has(self.batchedTokens) || !has(self.maxSequences) || self.batchedTokens >= self.maxSequences",
        "batchedTokens must be at least maxSequences: each sequence decodes one token in a step",
        ".batchedTokens",
    ),
)

_RESOURCES = Rule(
    "(!has(self.limits) || !('nvidia.com/gpu' in self.limits)) && "
    "(!has(self.requests) || !('nvidia.com/gpu' in self.requests))",
    "nvidia.com/gpu is always 2 and is added by the operator: remove it; for more GPUs raise replicas",
)

_EXTRA_ENV = (
    Rule(
        "!self.exists(v, v.name.startsWith('FLASH_'))",
        "names that begin with FLASH_ are the operator's own; choose another name",
    ),
    *_SAFE_NCCL,
    Rule(
        "!self.exists(v, v.name.startsWith('NCCL_') || v.name.startsWith('VLLM_ALLREDUCE_'))",
        "put NCCL_ and VLLM_ALLREDUCE_ variables into interconnect.env, where they win over what the node's labels "
        "call for",
    ),
    Rule(
        f"!self.exists(v, {_one_of(OPERATORS_OWN)})",
        f"{', '.join(OPERATORS_OWN)} are set by the operator: change them in podTemplate",
    ),
    Rule(
        f"!self.exists(v, {_one_of(SECRETS)})",
        "a token may not stand here, where everybody who may read pods reads it: put it into a Secret, and name that "
        "in model.credentialsSecret",
    ),
    Rule(
        "!self.exists(v, v.name == 'HF_ENDPOINT')",
        "the engine itself asks no hub: use model.hubEndpoint",
    ),
    Rule(
        "!self.exists(v, v.name == 'VLLM_API_KEY')",
        "VLLM_API_KEY may not be set: the gate asks without a key; authenticate in front of the Service",
    ),
)

_SPECULATION = (
    Rule(
        "self.method != 'Disabled' || !has(self.tokens)",
        "tokens has no meaning with method Disabled: remove it, or set method to Mtp",
        ".tokens",
    ),
    Rule(
        "self.method != 'Mtp' || !has(self.tokens) || self.tokens <= 2",
        "the MTP head drafts 1 or 2 tokens, the second by feeding its one layer again: lower tokens, or set method to "
        "Dspark for a checkpoint that has one",
        ".tokens",
    ),
)

_INTERCONNECT = (
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
    Rule(
        "self.customAllReduce != 'Enabled' || !self.env.exists(v, v.name == 'NCCL_P2P_DISABLE' && v.value == '1')",
        "customAllReduce Enabled needs peer-to-peer: remove NCCL_P2P_DISABLE=1 from env, or set it to Auto",
        ".env",
    ),
)

_READINESS = (
    Rule(
        "!has(self.startupTimeoutSeconds) || self.startupTimeoutSeconds >= self.retrySeconds",
        "startupTimeoutSeconds must be at least retrySeconds",
        ".startupTimeoutSeconds",
    ),
    Rule(
        "!has(self.learnedTolerancePercent) || self.floor == 'Learned'",
        "learnedTolerancePercent has no meaning with floor Fixed: remove it, or set floor to Learned",
        ".learnedTolerancePercent",
    ),
    Rule(
        "!has(self.maxFirstTokenMillis) || self.maxFirstTokenMillis <= self.requestTimeoutSeconds * 1000",
        "maxFirstTokenMillis is above requestTimeoutSeconds, so it could never be reached: lower it",
        ".maxFirstTokenMillis",
    ),
    Rule(
        "self.decodeTokens <= self.minDecodeTokensPerSecond * self.requestTimeoutSeconds",
        "at the floor of minDecodeTokensPerSecond a sample of decodeTokens lasts longer than requestTimeoutSeconds: "
        "lower decodeTokens, or raise requestTimeoutSeconds",
        ".decodeTokens",
    ),
)

_SERVING = (
    Rule(
        "self.stallSeconds >= 2 * self.watchSeconds",
        "stallSeconds must be at least twice watchSeconds, for a stall is seen between two looks: raise stallSeconds, "
        "or lower watchSeconds",
        ".stallSeconds",
    ),
    Rule(
        "!has(self.maxQuarantined) || self.onDegraded != 'Report'",
        "maxQuarantined has no meaning with onDegraded Report, which takes no replica out: remove it, or set "
        "onDegraded to Quarantine",
        ".maxQuarantined",
    ),
)

_GOLDEN = (
    Rule(
        f"self.kind != 'Completion' || self.prompt != '{DEFAULT_QUESTION}'",
        "the default prompt is a question for Chat: give a prompt whose continuation the model knows",
        ".prompt",
    ),
)

# An evaluation that fails refuses the object too, and tells what is wrong with the expression before our message.
_EXPECT = Rule(
    "''.matches(self) || !''.matches(self)",
    "expect must be a regular expression, without look-around and back-references: escape what is meant literally",
)

_TOLERATION = (
    Rule(
        "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
        "a toleration without a key tolerates everything: say so with operator Exists, or name the key",
    ),
    Rule(
        "!has(self.operator) || self.operator != 'Exists' || !has(self.value)",
        "a toleration with operator Exists has no value: remove the value, or use operator Equal",
    ),
    Rule(
        "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        "tolerationSeconds needs effect NoExecute: set it, or remove tolerationSeconds",
    ),
)

LABEL_KEY = r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"

SPEC_RULES: dict[str, tuple[Rule, ...]] = {
    "": _SPEC,
    **MODEL_RULES,
    "engine": _ENGINE,
    "engine.extraArgs": tuple(_owned(argument, instead) for argument, instead in OWNED_ARGUMENTS.items()),
    "engine.extraEnv": _EXTRA_ENV,
    "engine.resources": (_RESOURCES,),
    "speculation": _SPECULATION,
    "interconnect": _INTERCONNECT,
    "interconnect.env": (
        Rule(
            "self.all(v, v.name.startsWith('NCCL_') || v.name.startsWith('VLLM_'))",
            "only NCCL_ and VLLM_ variables belong here; put others into engine.extraEnv",
        ),
        Rule(
            "!self.exists(v, v.name == 'NCCL_P2P_DISABLE' && !(v.value in ['0', '1']))",
            "NCCL_P2P_DISABLE is 0 or 1: NCCL takes anything but a 1 for no, and vLLM's kernels would go by another "
            "reading of it",
        ),
        *_SAFE_NCCL,
    ),
    "readiness": _READINESS,
    "readiness.serving": _SERVING,
    "readiness.golden": _GOLDEN,
    "readiness.golden.expect": (_EXPECT,),
    "placement.nodeSelector": (
        Rule(
            f"self.all(k, size(k) < 318 && k.matches('{LABEL_KEY}'))",
            "a key is no label name: write PREFIX/NAME or NAME, of letters, digits, '-', '_' and '.'",
        ),
    ),
    "placement.tolerations.[]": _TOLERATION,
}
"""By the path of the field below `spec`. Strings and lists are bounded in the models, so that each rule is cheap."""

OBJECT_RULES = (
    Rule(
        "self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')",
        "metadata.name is also the Service's name: begin it with a letter, and use lower-case letters, digits and '-' "
        "only",
        ".metadata.name",
    ),
)
