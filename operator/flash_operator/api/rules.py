"""CEL rules across fields: the API server rejects a spec that breaks one, with a message that says what to write.

The API server evaluates rules after it has filled in defaults. So `has()`, which asks whether the user set a field,
only works for fields without a default. The rules for `spec.model` are in `model_rules`.
"""

from flash_contracts.profiles import PROFILES
from flash_contracts.variable_aliases import ALLOCATOR, EXPANDABLE_SEGMENTS
from flash_operator.api.argument_rules import ARGUMENT_RULES, ENGINE_ARGUMENT_RULES
from flash_operator.api.image_rules import IMAGE
from flash_operator.api.rule import Rule, quoted
from flash_operator.api.scaling_rules import ANNOTATIONS, LABEL_KEY, LABELS, PROMETHEUS, REPLICAS, SCALING
from flash_operator.api.secret_rules import SECRET_ARGUMENT_RULES, SECRET_VARIABLE_RULES
from flash_operator.api.v1alpha1 import DEFAULT_QUESTION
from flash_operator.api.variable_rules import EXTRA_VARIABLES, LINK_VARIABLES, refused_variables


def _one_of(names: tuple[str, ...]) -> str:
    return f"v.name in [{', '.join(map(quoted, names))}]"


_SAFE_PROTOCOL = Rule(
    "!self.exists(v, v.name == 'NCCL_PROTO' && (v.value.upperAscii().contains('LL128') || v.value.contains('^')))",
    "NCCL_PROTO must contain neither LL128, which corrupts data over PCIe, nor ^, which forces LL128 too: leave it "
    "unset, or use LL or Simple",
)

GOLDEN_ANSWER_TOKENS = 32
"""Longest golden answer. The operator writes it into gate.json, and the gate asks for no more."""

_GOLDEN_FITS = Rule(
    "!has(self.engine.contextTokens) || "
    f"size(self.readiness.golden.prompt) + {GOLDEN_ANSWER_TOKENS} <= self.engine.contextTokens",
    "readiness.golden.prompt and its answer may exceed engine.contextTokens: shorten it, or raise contextTokens",
    ".readiness.golden.prompt",
    f"'readiness.golden.prompt has %d characters, each of which may be a token, and its answer needs "
    f"{GOLDEN_ANSWER_TOKENS} tokens: together they may exceed engine.contextTokens %d; shorten it, or raise "
    "contextTokens'"
    ".format([size(self.readiness.golden.prompt), self.engine.contextTokens])",
)

_NO_DSPARK = Rule(
    "self.speculation.method != 'Dspark' || !has(self.model.restoreMtp) || self.model.restoreMtp.state != 'Enabled'",
    "restoreMtp restores an MTP head, which speculation.method Dspark does not use: set method to Mtp, or remove "
    "restoreMtp",
    ".speculation.method",
)

_DRAFTED = "(has(self.speculation.tokens) ? self.speculation.tokens : (self.speculation.method == 'Dspark' ? 5 : 1))"
_HAS_LENGTH = "has(self.readiness.minAcceptanceLengthPercent)"

_ACCEPTANCE_LENGTH = (
    Rule(
        f"!{_HAS_LENGTH} || self.speculation.method != 'Disabled'",
        "readiness.minAcceptanceLengthPercent has no effect with speculation.method Disabled: remove it",
        ".readiness.minAcceptanceLengthPercent",
    ),
    Rule(
        f"!{_HAS_LENGTH} || self.readiness.minAcceptanceLengthPercent <= 100 * (1 + {_DRAFTED})",
        "readiness.minAcceptanceLengthPercent is more than a step can yield, 100 for the model's token and 100 for "
        "each drafted one (speculation.tokens; by default Mtp drafts 1 and Dspark 5): lower it",
        ".readiness.minAcceptanceLengthPercent",
    ),
)

DEFAULT_PREFILL_FLOOR = 500
"""Tokens per second. At the first published figures two cards read short prompts at 2,000 to 4,000, and the slow stack
of 2026-05 read 74,000 tokens at 1,260 (pasta-paul/dsv4-flash-w4a16-fp8)."""

_CONTEXTS = " : ".join(
    f"self.engine.profile == '{name}' ? {profile.context_tokens}" for name, profile in PROFILES.items()
)
_CONTEXT = f"(has(self.engine.contextTokens) ? self.engine.contextTokens : {_CONTEXTS} : 0)"

_LONG_PROMPT = (
    Rule(
        f"!has(self.readiness.promptTokens) || self.readiness.promptTokens + self.readiness.decodeTokens <= {_CONTEXT}",
        "readiness.promptTokens and decodeTokens together exceed the context (engine.contextTokens, or the profile's): "
        "lower promptTokens",
        ".readiness.promptTokens",
    ),
)

_SPEC = (
    Rule(
        "!has(self.engine.contextTokens) || self.readiness.decodeTokens < self.engine.contextTokens",
        "readiness.decodeTokens must be less than engine.contextTokens, because the prompt needs tokens too: "
        "lower decodeTokens",
        ".readiness.decodeTokens",
    ),
    _GOLDEN_FITS,
    _NO_DSPARK,
    *_ACCEPTANCE_LENGTH,
    *_LONG_PROMPT,
    Rule(
        "self.readiness.streams != 'Full' || !has(self.engine.maxSequences) || self.engine.maxSequences > 1",
        "readiness.streams Full sends engine.maxSequences concurrent requests, and that is 1: set streams to One",
        ".readiness.streams",
    ),
    Rule(
        "self.interconnect.customAllReduce != 'Enabled' || !self.engine.extraEnv.exists(v, "
        f"{_one_of(ALLOCATOR)} && v.value.matches({quoted(EXPANDABLE_SEGMENTS)}))",
        f"{ALLOCATOR[0]} (or an older name of it) with expandable_segments makes custom all-reduce crash: remove it, "
        "or set interconnect.customAllReduce to Auto",
        ".engine.extraEnv",
    ),
)

_ENGINE = (
    Rule(
        "self.profile != 'Custom' || (has(self.contextTokens) && has(self.maxSequences))",
        "profile Custom needs contextTokens and maxSequences: set both, or choose LongContext, Balanced or Throughput",
        ".profile",
    ),
    Rule(
        "!has(self.batchedTokens) || !has(self.maxSequences) || self.batchedTokens >= self.maxSequences",
        "batchedTokens must be at least maxSequences, because each sequence decodes one token per step: raise it",
        ".batchedTokens",
    ),
    *ENGINE_ARGUMENT_RULES,
)

_A_GPU = "exists(r, r.startsWith('nvidia.com/gpu') || r.startsWith('nvidia.com/mig'))"

_RESOURCES = (
    Rule(
        f"(!has(self.limits) || !self.limits.{_A_GPU}) && (!has(self.requests) || !self.requests.{_A_GPU})",
        "the operator adds nvidia.com/gpu: 2 by itself: remove it; to use more GPUs raise replicas",
    ),
    Rule(
        "!has(self.limits) || !has(self.requests) || self.requests.all(r, !(r in self.limits) || "
        "quantity(string(self.requests[r])).compareTo(quantity(string(self.limits[r]))) <= 0)",
        "a request is greater than its limit, which Kubernetes refuses: lower the request, or raise the limit",
    ),
)

_SPECULATION = (
    Rule(
        "self.method != 'Disabled' || !has(self.tokens)",
        "tokens has no effect with method Disabled: remove it, or set method to Mtp",
        ".tokens",
    ),
    Rule(
        "self.method != 'Mtp' || !has(self.tokens) || self.tokens <= 2",
        "the MTP head drafts 1 or 2 tokens (the second by running its one layer again): lower tokens, or set method to "
        "Dspark for a checkpoint with a DSpark module",
        ".tokens",
    ),
)

_INTERCONNECT = (
    Rule(
        "self.mode != 'Safe' || self.customAllReduce != 'Enabled'",
        "mode Safe disables peer-to-peer, which customAllReduce Enabled needs: set one of them to Auto",
        ".customAllReduce",
    ),
    Rule(
        "self.mode != 'Safe' || !self.env.exists(v, v.name == 'NCCL_P2P_DISABLE' && v.value == '0')",
        "mode Safe disables peer-to-peer: remove NCCL_P2P_DISABLE=0 from env, or set mode to Auto",
        ".env",
    ),
    Rule(
        "self.customAllReduce != 'Enabled' || !self.env.exists(v, v.name == 'NCCL_P2P_DISABLE' && v.value == '1')",
        "customAllReduce Enabled needs peer-to-peer: remove NCCL_P2P_DISABLE=1 from env, or set customAllReduce to "
        "Auto",
        ".env",
    ),
)

_PREFILL_FLOOR = f"(has(self.minPrefillTokensPerSecond) ? self.minPrefillTokensPerSecond : {DEFAULT_PREFILL_FLOOR})"

_READINESS = (
    Rule(
        "!has(self.startupTimeoutSeconds) || self.startupTimeoutSeconds >= self.retrySeconds",
        "startupTimeoutSeconds must be at least retrySeconds: raise it, or lower retrySeconds",
        ".startupTimeoutSeconds",
    ),
    Rule(
        "!has(self.learnedTolerancePercent) || self.floor == 'Learned'",
        "learnedTolerancePercent has no effect with floor Fixed: remove it, or set floor to Learned",
        ".learnedTolerancePercent",
    ),
    Rule(
        "!has(self.maxFirstTokenMillis) || self.maxFirstTokenMillis <= self.requestTimeoutSeconds * 1000",
        "maxFirstTokenMillis is longer than requestTimeoutSeconds, so it could never be exceeded: lower it",
        ".maxFirstTokenMillis",
    ),
    Rule(
        f"!has(self.promptTokens) || self.promptTokens <= {_PREFILL_FLOOR} * self.requestTimeoutSeconds",
        "at minPrefillTokensPerSecond (500 if unset) a prompt of promptTokens takes longer than requestTimeoutSeconds: "
        "lower promptTokens, or raise requestTimeoutSeconds",
        ".promptTokens",
    ),
    Rule(
        "self.decodeTokens <= self.minDecodeTokensPerSecond * self.requestTimeoutSeconds",
        "at minDecodeTokensPerSecond a sample of decodeTokens takes longer than requestTimeoutSeconds: "
        "lower decodeTokens, or raise requestTimeoutSeconds",
        ".decodeTokens",
    ),
)

_SERVING = (
    Rule(
        "self.stallSeconds >= 2 * self.watchSeconds",
        "stallSeconds must be at least twice watchSeconds, because a stall is seen between two checks: raise "
        "stallSeconds, or lower watchSeconds",
        ".stallSeconds",
    ),
    Rule(
        "!has(self.maxQuarantined) || self.onDegraded != 'Report'",
        "maxQuarantined has no effect with onDegraded Report, which takes no replica out of service: remove it, or "
        "set onDegraded to Quarantine",
        ".maxQuarantined",
    ),
)

_GOLDEN = (
    Rule(
        f"self.kind != 'Completion' || self.prompt != '{DEFAULT_QUESTION}'",
        "the default prompt is a chat question: set a prompt whose continuation the model knows",
        ".prompt",
    ),
)

# The API server also rejects the object if evaluation fails. It then reports the error in the expression first.
_EXPECT = Rule(
    "''.matches(self) || !''.matches(self)",
    "expect must be a regular expression (RE2: no look-around, no back-references): escape literal characters",
)

_TOLERATION = (
    Rule(
        "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
        "a toleration without a key tolerates every taint: set operator to Exists if you mean that, or set key",
    ),
    Rule(
        "!has(self.operator) || self.operator != 'Exists' || !has(self.value)",
        "operator Exists ignores the value: remove value, or use operator Equal",
    ),
    Rule(
        "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        "tolerationSeconds needs effect NoExecute: set effect, or remove tolerationSeconds",
    ),
)

SPEC_RULES: dict[str, tuple[Rule, ...]] = {
    "": (*(rule.only_if_changed() for rule in _SPEC), REPLICAS),
    "scaling": SCALING,
    "scaling.prometheus": PROMETHEUS,
    "podMetadata.labels": LABELS,
    "podMetadata.annotations": ANNOTATIONS,
    "engine": _ENGINE,
    "engine.image": (IMAGE,),
    "engine.extraArgs": ARGUMENT_RULES + SECRET_ARGUMENT_RULES,
    "engine.extraEnv": (refused_variables(EXTRA_VARIABLES), _SAFE_PROTOCOL, *SECRET_VARIABLE_RULES),
    "engine.resources": _RESOURCES,
    "speculation": _SPECULATION,
    "interconnect": _INTERCONNECT,
    "interconnect.env": (
        Rule(
            "self.all(v, v.name.startsWith('NCCL_') || v.name.startsWith('VLLM_'))",
            "only NCCL_ and VLLM_ variables are allowed here: put others into engine.extraEnv",
        ),
        Rule(
            "!self.exists(v, v.name == 'NCCL_P2P_DISABLE' && !(v.value in ['0', '1']))",
            "NCCL_P2P_DISABLE must be 0 or 1: NCCL reads anything but 1 as 0, and vLLM's kernels may read it "
            "differently",
        ),
        refused_variables(LINK_VARIABLES),
        *SECRET_VARIABLE_RULES,
        _SAFE_PROTOCOL,
    ),
    "readiness": _READINESS,
    "readiness.serving": _SERVING,
    "readiness.golden": _GOLDEN,
    "readiness.golden.expect": (_EXPECT,),
    "placement.nodeSelector": (
        Rule(
            f"self.all(k, size(k) < 318 && k.matches('{LABEL_KEY}'))",
            "a key is not a valid label name: write PREFIX/NAME or NAME, of letters, digits, '-', '_' and '.'",
        ),
    ),
    "placement.tolerations.[]": _TOLERATION,
    "placement.topologySpread": (
        Rule(
            "self.all(a, self.exists_one(b, b.topologyKey == a.topologyKey))",
            "two entries have the same topologyKey: merge them into one",
        ),
    ),
    "placement.topologySpread.[]": (
        Rule(
            f"self.topologyKey.matches('{LABEL_KEY}')",
            "the key is not a valid label name: write PREFIX/NAME or NAME, of letters, digits, '-', '_' and '.'",
            ".topologyKey",
        ),
    ),
    "placement.priorityClassName": (
        Rule(
            "!self.startsWith('system-')",
            "the classes of the system are for what the cluster itself needs: create a PriorityClass of your own",
        ),
    ),
}
"""Rules by the path of their field below `spec`. The models bound all strings and lists, which keeps rules cheap."""

# Status is below the same object, so without oldSelf the operator could not report a stored object of such a name.
OBJECT_RULES = (
    Rule(
        "oldSelf.hasValue() || self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')",
        "metadata.name is also the name of the Service: begin it with a letter, and use only lower-case letters, "
        "digits and '-'",
        ".metadata.name",
        has_optional_old_self=True,
    ),
)
