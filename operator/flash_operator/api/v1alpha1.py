"""The API, version v1alpha1: what a user may ask for. What status tells is in `status`.

The models are the source: `flash_operator.api.schema` makes the CRD of them. Field docstrings are what users read
with `kubectl explain`. Reading is lenient (a newer CRD must not break an older operator); strictness is the API
server's.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from flash_operator.api.api_model import ApiModel
from flash_operator.api.model_spec import ModelSpec

Argument = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$")]

QUANTITY = {
    "x-kubernetes-int-or-string": True,
    "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
}
QUANTITIES = {"type": "object", "maxProperties": 8, "additionalProperties": QUANTITY}

# Kubernetes' own objects are passed on as they are; only the API server looks into them, so that it refuses a typing
# error here and not later, in a child that the user never wrote.
Resources = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "limits": {**QUANTITIES, "description": "Most of each resource, such as cpu and memory."},
                "requests": {**QUANTITIES, "description": "What the scheduler sets aside."},
            },
        }
    ),
]
Toleration = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "key": {"type": "string", "minLength": 1, "maxLength": 317, "description": "Key of the taint."},
                "operator": {"type": "string", "enum": ["Equal", "Exists"], "description": "Equal where absent."},
                "value": {"type": "string", "maxLength": 63, "description": "Value of the taint, with Equal."},
                "effect": {
                    "type": "string",
                    "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"],
                    "description": "Effect of the taint; all of them where absent.",
                },
                "tolerationSeconds": {
                    "type": "integer",
                    "format": "int64",
                    "description": "How long NoExecute is tolerated; for ever where absent.",
                },
            },
        }
    ),
]


class EnvVar(ApiModel):
    """One environment variable with a literal value."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=1024)] = ""
    """Its value."""


class EngineSpec(ApiModel):
    """How vLLM is run."""

    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")] | None = None
    """Engine image; the operator's default where absent."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When the kubelet pulls the image."""
    profile: Literal["LongContext", "Balanced", "Throughput", "Custom"] = "Balanced"
    """LongContext: 524288 tokens, 2 sequences. Balanced: 262144, 4. Throughput: 131072, 8. Custom: nothing but
    what the fields below say, and none of the arguments that DeepSeek-V4 needs."""
    context_tokens: Annotated[int, Field(ge=16, le=1048576)] | None = None
    """Longest context in tokens; the profile's where absent."""
    max_sequences: Annotated[int, Field(ge=1, le=256)] | None = None
    """Most requests decoded at once; the profile's where absent."""
    memory_percent: Annotated[int, Field(ge=10, le=98)] | None = None
    """Share of each GPU's memory that vLLM may take; the profile's where absent."""
    batched_tokens: Annotated[int, Field(ge=16, le=131072)] | None = None
    """Most tokens in one step; bounds the time that a long prompt holds up decoding."""
    extra_args: Annotated[list[Argument], Field(max_length=32)] = []
    """Further vLLM arguments, last, so that they win. Arguments that a field stands for are refused."""
    extra_env: Annotated[list[EnvVar], Field(max_length=32)] = []
    """Further environment of the engine."""
    resources: Resources | None = None
    """CPU and memory of the engine container. nvidia.com/gpu: 2 is always added."""


class SpeculationSpec(ApiModel):
    """Speculative decoding with the drafter that the checkpoint carries."""

    method: Literal["Mtp", "Dspark", "Disabled"] = "Mtp"
    """Mtp drafts with the checkpoint's MTP head, Dspark with the DSpark drafter that the 0731 checkpoint has in its
    place. A replica whose drafter is missing or dead never becomes ready."""
    tokens: Annotated[int, Field(ge=1, le=5)] | None = None
    """Tokens drafted in each step: 1 or 2 with Mtp, 1 to 5 with Dspark. Where absent 1 and 5."""

    @property
    def drafted_tokens(self) -> int:
        """What `tokens` comes to."""
        return self.tokens or (5 if self.method == "Dspark" else 1)


class InterconnectSpec(ApiModel):
    """How the two GPUs talk to each other. The default follows the node's labels (docs/topology.md)."""

    mode: Literal["Auto", "Safe", "Fast"] = "Auto"
    """Auto: what the node's labels prove. Safe: no peer-to-peer at all. Fast: also what the driver merely grants."""
    custom_all_reduce: Literal["Auto", "Enabled", "Disabled"] = "Auto"
    """Overrides what follows from the labels, against a tested verdict too; status then warns."""
    nccl_profile: Literal["None", "PcieLowLatency"] = "None"
    """PcieLowLatency sets NCCL_PROTO=LL, NCCL_ALGO=Ring, NCCL_MIN_NCHANNELS=8, NCCL_NTHREADS=512. Unproven."""
    env: Annotated[list[EnvVar], Field(max_length=16)] = []
    """NCCL_ and VLLM_ variables that win over the derived ones."""
    numa_binding: Literal["Cpus", "CpusAndMemory", "Disabled"] = "Cpus"
    """Cpus: the engine's processes run on the CPUs near their GPU, where the node's labels tell which those are.
    CpusAndMemory: and their memory is there and nowhere else, which takes the capability SYS_NICE; namespaces that
    enforce Pod Security baseline or restricted refuse it."""
    hang_seconds: Annotated[int, Field(ge=10, le=3600)] = 90
    """An engine that makes no progress for so long while it starts is started anew with the safe set, once."""


DEFAULT_QUESTION = "What is 17 + 25? Answer with the number only."
DEFAULT_ANSWER = "42"


class GoldenSpec(ApiModel):
    """One deterministic question that the engine must answer right before it is measured."""

    kind: Literal["Chat", "Completion"] = "Chat"
    """Which endpoint is asked."""
    prompt: Annotated[str, Field(min_length=1, max_length=4096)] = DEFAULT_QUESTION
    """The question."""
    expect: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Regular expression that the answer must contain. Where absent: 42 for the default question, and for a
    question of your own only degenerate answers (empty, or one token over and over) fail."""

    @property
    def expected(self) -> str | None:
        """What is really expected, the answer to the default question included."""
        return self.expect or (DEFAULT_ANSWER if self.prompt == DEFAULT_QUESTION else None)


class ServingSpec(ApiModel):
    """How a replica is watched that has passed: by the engine's own counters, so that no request of users waits."""

    watch_seconds: Annotated[int, Field(ge=1, le=60)] = 5
    """Pause between two looks. Three bad ones in a row are a suspicion, and twelve are believed unmeasured."""
    tolerance_percent: Annotated[int, Field(ge=0, le=90)] = 10
    """How far below its floor traffic may decode: users' prompts draft worse than the gate's."""
    stall_seconds: Annotated[int, Field(ge=10, le=3600)] = 60
    """An engine that has requests and makes no step for so long hangs: it is not ready, and is started anew."""
    on_degraded: Literal["Report", "Quarantine", "Restart"] = "Quarantine"
    """Report: only say so. Quarantine: not ready until it is fast again. Restart: also start the engine anew."""
    max_quarantined: Annotated[int, Field(ge=1, le=63)] | None = None
    """Most replicas taken out at once, 1 where absent. The last ready one is never taken out."""


DEFAULT_TOLERANCE_PERCENT = 15


class ReadinessSpec(ApiModel):
    """What a replica must prove before it is ready. Changes re-judge running replicas and restart none."""

    floor: Literal["Fixed", "Learned"] = "Fixed"
    """Learned: what replicas like it did before, less a tolerance, where that is more than the fixed floor."""
    learned_tolerance_percent: Annotated[int, Field(ge=1, le=50)] | None = None
    """How far below the median of those a replica may be; 15 where absent."""
    min_decode_tokens_per_second: Annotated[int, Field(ge=1, le=2000)] = 60
    """Least decode speed of one stream. 60 lies between what two cards do without MTP (53) and with it (85)."""
    min_acceptance_percent: Annotated[int, Field(ge=1, le=100)] = 40
    """Least share of drafted tokens that the model accepts."""
    max_first_token_millis: Annotated[int, Field(ge=1, le=600000)] | None = None
    """Longest time to the first token; not judged where absent."""
    decode_tokens: Annotated[int, Field(ge=16, le=4096)] = 128
    """Tokens decoded in each timed sample."""
    samples: Annotated[int, Field(ge=1, le=20)] = 3
    """Most timed samples; the median counts, and fewer are taken where the figures are clear earlier."""
    streams: Literal["One", "Full"] = "One"
    """Full: as many requests at once as engine.maxSequences, after the timed ones. Some faults show only then."""
    golden: GoldenSpec = GoldenSpec()
    """The question that is asked first."""
    startup_timeout_seconds: Annotated[int, Field(ge=10, le=86400)] | None = None
    """Longest time from engine start to healthy; 15 min and 18 s for each GiB of weights where absent. The time that
    fetching takes does not count."""
    request_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    """Longest time for one of the gate's own requests."""
    retry_seconds: Annotated[int, Field(ge=5, le=3600)] = 30
    """Pause after which a replica that failed is measured again."""
    serving: ServingSpec = ServingSpec()
    """The watch over replicas that serve."""


class PlacementSpec(ApiModel):
    """Where engine pods may run, beside the two GPUs that they need."""

    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16)] = {}
    """Labels that a node must have. Name labels that your autoscaler knows."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = []
    """Taints that engine pods tolerate."""


class RolloutSpec(ApiModel):
    """How replicas are replaced: one at a time, never with GPUs that are not free, and judged by their speed."""

    state: Literal["Active", "Paused"] = "Active"
    """Paused: replicas stay as they are until it is Active again."""
    max_slowdown_percent: Annotated[int, Field(ge=1, le=99)] = 10
    """A new replica that decodes by more than this slower than those before stops the rollout and takes it back."""
    surge: Literal["Auto", "Disabled"] = "Auto"
    """Auto: where two GPUs are free for one more replica, the new one comes before an old one goes."""


class DrainSpec(ApiModel):
    """How a replica leaves: it takes no new requests, and ends those it has."""

    timeout_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """Longest time for requests that are under way; then the engine ends without them."""


class FlashSpec(ApiModel):
    """What to serve, and how fast it must be."""

    replicas: Annotated[int, Field(ge=0, le=64)] = 1
    """Wanted replicas, each on two GPUs of one node."""
    model: ModelSpec
    """The checkpoint."""
    engine: EngineSpec = EngineSpec()
    """vLLM's profile and arguments."""
    speculation: SpeculationSpec = SpeculationSpec()
    """Speculative decoding."""
    interconnect: InterconnectSpec = InterconnectSpec()
    """NCCL and custom all-reduce."""
    readiness: ReadinessSpec = ReadinessSpec()
    """The smoke test."""
    placement: PlacementSpec = PlacementSpec()
    """Nodes."""
    rollout: RolloutSpec = RolloutSpec()
    """Replacement of replicas."""
    drain: DrainSpec = DrainSpec()
    """Replicas on their way out."""
    pod_template: dict[str, Any] | None = None
    """Laid over the engine's pod template as a strategic merge: the way out for what no field covers."""


class FlashDeployment(ApiModel):
    """A DeepSeekFlashDeployment as the operator reads it."""

    name: str
    namespace: str
    uid: str
    generation: int = 0
    deleting: bool = False
    spec: FlashSpec

    @classmethod
    def from_object(cls, raw: dict[str, Any]) -> "FlashDeployment":
        """Read the raw object of the API server. Raises pydantic.ValidationError for a spec it cannot mean."""
        metadata = raw["metadata"]
        return cls(
            name=metadata["name"],
            namespace=metadata["namespace"],
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            deleting="deletionTimestamp" in metadata,
            spec=FlashSpec.model_validate(raw["spec"]),
        )
