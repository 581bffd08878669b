"""The API, version v1alpha1: what a user may ask for, and what status tells.

The models are the source: `flash_operator.api.schema` makes the CRD of them. Field docstrings are what users read
with `kubectl explain`. Reading is lenient (a newer CRD must not break an older operator); strictness is the API
server's.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """camelCase outside, snake_case inside, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )


Name = Annotated[str, StringConstraints(max_length=253)]
Argument = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$")]
# Begins with a letter or digit: a name that begins with a dash would be read as an argument of the engine.
ServedName = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$")
]

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


class ModelSpec(ApiModel):
    """The checkpoint, and the names under which it is served."""

    source: Annotated[str, Field(max_length=512, pattern=r"^(hf|oci|pvc)://[A-Za-z0-9][A-Za-z0-9._:/@-]*$")]
    """Where the weights are: pvc://CLAIM/FOLDER, oci://IMAGE, or hf://OWNER/NAME. Cannot be changed later."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Commit of an hf:// source. Pin it: a branch can move between two replicas."""
    served_names: Annotated[list[ServedName], Field(min_length=1, max_length=8)] = ["deepseek-v4-flash"]
    """Names that clients may ask for; the first one is used by the gate."""


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
    """Speculative decoding with the checkpoint's own MTP head."""

    method: Literal["Mtp", "Disabled"] = "Mtp"
    """Mtp drafts with the checkpoint's MTP head; a replica whose head is missing or dead never becomes ready."""
    tokens: Annotated[int, Field(ge=1, le=2)] = 1
    """Tokens drafted in each step."""


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


class ReadinessSpec(ApiModel):
    """What a replica must prove before it is ready. Changes re-judge running replicas and restart none."""

    min_decode_tokens_per_second: Annotated[int, Field(ge=1, le=100000)] = 60
    """Least decode speed of one stream. 60 lies between what two cards do without MTP (53) and with it (85)."""
    min_acceptance_percent: Annotated[int, Field(ge=1, le=100)] = 40
    """Least share of drafted tokens that the model accepts."""
    max_first_token_millis: Annotated[int, Field(ge=1, le=600000)] | None = None
    """Longest time to the first token; not judged where absent."""
    decode_tokens: Annotated[int, Field(ge=16, le=4096)] = 128
    """Tokens decoded in each timed sample."""
    samples: Annotated[int, Field(ge=1, le=20)] = 3
    """Timed samples; the median counts."""
    golden: GoldenSpec = GoldenSpec()
    """The question that is asked first."""
    startup_timeout_seconds: Annotated[int, Field(ge=10, le=86400)] | None = None
    """Longest time from engine start to healthy; 3582 (15 min and 18 s for each GiB of weights) where absent."""
    request_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    """Longest time for one of the gate's own requests."""
    retry_seconds: Annotated[int, Field(ge=5, le=3600)] = 30
    """Pause after which a replica that failed is measured again."""


class PlacementSpec(ApiModel):
    """Where engine pods may run, beside the two GPUs that they need."""

    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16)] = {}
    """Labels that a node must have. Name labels that your autoscaler knows."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = []
    """Taints that engine pods tolerate."""


class RolloutSpec(ApiModel):
    """How replicas are replaced: one at a time, and never with GPUs that are not free."""

    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """Time that a replica on its way out has to finish its requests."""


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
    pod_template: dict[str, Any] | None = None
    """Laid over the engine's pod template as a strategic merge: the way out for what no field covers."""


class Condition(ApiModel):
    """One condition, as the Kubernetes API conventions have it."""

    type: Annotated[str, Field(max_length=64)]
    """Name of the condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: int = 0
    """Generation of the spec that this speaks of."""
    last_transition_time: Annotated[str, Field(max_length=32)]
    """When the status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=128)]
    """One word for programs."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """A sentence for people: figures, and what to do."""


class PodStatus(ApiModel):
    """One replica: its flags and why, its figures, its verdict."""

    name: Name
    """Name of the pod."""
    uid: Annotated[str, Field(max_length=64)]
    """Uid of the pod."""
    node: Name | None = None
    """Node that it is bound to."""
    link: Annotated[str, Field(max_length=63)] | None = None
    """Link between the node's GPUs, from its label."""
    # Named here, for the alias generator would make it p2P.
    p2p: Annotated[str, Field(max_length=63)] | None = Field(default=None, alias="p2p")
    """Peer-to-peer verdict of the node, from its label."""
    row: Annotated[str, Field(max_length=16)] | None = None
    """Row of the derivation table in docs/topology.md."""
    flags: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=64)] | None = None
    """Each flag in force, with its source and reason."""
    flags_origin: Annotated[str, Field(max_length=32)] | None = None
    """annotation: handed over by the operator. fallback: the launcher took the safe set, for nothing came in time.
    recovery: it took the safe set after an incident."""
    flags_outdated: Literal["Current", "Outdated"] | None = None
    """Outdated where the node's labels call for other flags by now; delete the pod to take them."""
    incident: Annotated[str, Field(max_length=4096)] | None = None
    """What its launcher recovered from by taking the safe set: a hang, or wrong data, and what gave it away."""
    incident_verdict: Literal["Pending", "Noted"] | None = None
    """Noted once the replica answered right without peer-to-peer, and its node was labelled for it."""
    reason: Annotated[str, Field(max_length=128)]
    """The gate's verdict, or what keeps the pod from starting."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """The verdict in a sentence."""
    decode_tokens_per_second: int | None = None
    """Measured decode speed of one stream."""
    acceptance_percent: int | None = None
    """Measured share of accepted draft tokens."""
    first_token_millis: int | None = None
    """Measured time to the first token."""
    checked_time: Annotated[str, Field(max_length=40)] | None = None
    """When it was measured."""
    image_digest: Annotated[str, Field(max_length=512)] | None = None
    """The engine image as the kubelet resolved it."""


class StatusSummary(ApiModel):
    """What the table of `kubectl get dsf` shows."""

    replicas: Annotated[str, Field(max_length=16)]
    """Ready of wanted."""
    decode_tokens_per_second: int | None = None
    """Decode speed of the slowest measured replica."""
    acceptance_percent: int | None = None
    """Acceptance of the worst measured replica."""


class FlashStatus(ApiModel):
    """What was observed."""

    conditions: Annotated[list[Condition], Field(max_length=16)] = []
    """Ready sums up; Available, Progressing, TopologyResolved, SpeculationActive, SmokeTestPassed, Degraded."""
    observed_generation: int = 0
    """Generation of the spec that this status speaks of."""
    replicas: int = 0
    """Replicas that exist."""
    ready_replicas: int = 0
    """Replicas that passed and serve."""
    selector: Annotated[str, Field(max_length=256)] = ""
    """Selector of the replicas' pods, for autoscalers."""
    endpoint: Annotated[str, Field(max_length=512)] = ""
    """Base address of the OpenAI-compatible API."""
    summary: StatusSummary | None = None
    """What the table shows."""
    pods: Annotated[list[PodStatus], Field(max_length=128)] = []
    """Each replica."""


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
