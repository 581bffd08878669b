"""The v1alpha1 API: `spec`, what a user may ask for. `status` is in the module of that name.

These models are the source of the CRD (`flash_operator.api.schema`), and field docstrings are what `kubectl explain`
shows. Reading is lenient, because a newer CRD must not break an older operator; the API server does the strict checks.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from flash_contracts.orders import DeploymentOrders
from flash_operator.api import ApiModel
from flash_operator.api.model_spec import ModelSpec
from flash_operator.api.scaling_spec import ScalingSpec
from flash_operator.api.unbounded import unbounded

Argument = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
CLASS_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"

LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$")]

QUANTITY = {
    "x-kubernetes-int-or-string": True,
    "maxLength": 64,
    "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
}
QUANTITIES = {"type": "object", "maxProperties": 8, "additionalProperties": QUANTITY}

# Kubernetes' own types are passed through unchanged. Only the schema looks inside, so that a typo is rejected here and
# not later, in a child object that the user never wrote.
Resources = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "limits": {**QUANTITIES, "description": "Upper bound for each resource, such as cpu and memory."},
                "requests": {**QUANTITIES, "description": "Amount that the scheduler reserves on the node."},
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
                "operator": {
                    "type": "string",
                    "enum": ["Equal", "Exists"],
                    "description": "Equal compares the value, Exists only the key. Equal if unset.",
                },
                "value": {"type": "string", "maxLength": 63, "description": "Value of the taint, with operator Equal."},
                "effect": {
                    "type": "string",
                    "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"],
                    "description": "Effect of the taint. All effects if unset.",
                },
                "tolerationSeconds": {
                    "type": "integer",
                    "format": "int64",
                    "description": "Seconds for which NoExecute is tolerated. Forever if unset.",
                },
            },
        }
    ),
]


class EnvVar(ApiModel):
    """An environment variable with a literal value."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=1024)] = ""
    """Value of the variable."""


class EngineSpec(ApiModel):
    """How vLLM runs."""

    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")] | None = None
    """Engine image. The operator's default (its flag --engine-image) if unset."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When the kubelet pulls the engine image."""
    profile: Literal["LongContext", "Balanced", "Throughput", "Custom"] = "Balanced"
    """Trade-off between context length and concurrent requests. LongContext: 524288 tokens, 2 requests. Balanced:
    262144 tokens, 4 requests. Throughput: 131072 tokens, 8 requests. Custom: only what the fields below set, without
    the vLLM arguments that DeepSeek-V4 needs; add those in extraArgs."""
    context_tokens: Annotated[int, Field(ge=16, le=1048576)] | None = None
    """Longest context, prompt and answer together, in tokens. The profile's value if unset."""
    max_sequences: Annotated[int, Field(ge=1, le=256)] | None = None
    """Most requests decoded at the same time. The profile's value if unset."""
    memory_percent: Annotated[int, Field(ge=10, le=98)] | None = None
    """Share of each GPU's memory that vLLM may use, in percent. The profile's value if unset. Lower it if the engine
    runs out of memory."""
    batched_tokens: Annotated[int, Field(ge=16, le=131072)] | None = None
    """Most tokens processed in one step; 2048 if unset, except in profile Custom, where vLLM chooses. Higher values
    read long prompts faster, but delay the decoding of other requests and take memory from the KV cache."""
    extra_args: Annotated[list[Argument], Field(max_length=32)] = []
    """Further vLLM arguments. They come last, so they win over the operator's own. Arguments that have a field in this
    spec, contradict what a replica is, or are secrets are rejected (docs/spec.md)."""
    extra_env: Annotated[list[EnvVar], Field(max_length=32)] = []
    """Further environment variables for the engine, but no secrets (docs/spec.md). NCCL_ and VLLM_ALLREDUCE_ variables
    belong in interconnect.env."""
    api_keys_secret: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")] | None = None
    """Secret with the keys of clients, one in each entry. Clients then send one as `Authorization: Bearer KEY`; only
    /health, /ping, /version, /load and /metrics need none. A changed Secret takes effect within two minutes, without a
    restart; another name rolls the replicas (docs/api-keys.md). If unset, no key is required."""
    resources: Resources | None = None
    """CPU and memory of the engine container. The operator adds nvidia.com/gpu: 2, unless podTemplate gives it claims
    (docs/spec.md), and requests 4 CPUs and 32 GiB of memory where nothing is set (10m and 256 MiB with profile Custom).
    """


class SpeculationSpec(ApiModel):
    """Speculative decoding with the drafter that the checkpoint contains."""

    method: Literal["Mtp", "Dspark", "Disabled"] = "Mtp"
    """Mtp drafts with the checkpoint's MTP head. Dspark drafts with the DSpark module that the 0731 checkpoint has
    instead. Disabled decodes without drafts. A replica whose drafter is missing or dead never becomes ready."""
    tokens: Annotated[int, Field(ge=1, le=5)] | None = None
    """Tokens drafted per step. Mtp: 1 or 2, 1 if unset. Dspark: 1 to 5, 5 if unset."""

    @property
    def drafted_tokens(self) -> int:
        """`tokens`, or the method's default."""
        return self.tokens or (5 if self.method == "Dspark" else 1)


class InterconnectSpec(ApiModel):
    """How the two GPUs communicate. By default the operator derives it from the node's labels (docs/topology.md)."""

    mode: Literal["Auto", "Safe", "Fast"] = "Auto"
    """Auto: peer-to-peer only where the node's labels show that it was tested. Safe: no peer-to-peer at all. Fast:
    also where the driver permits it but nothing has tested it."""
    custom_all_reduce: Literal["Auto", "Enabled", "Disabled"] = "Auto"
    """vLLM's custom all-reduce kernel. Auto follows the node's labels. Enabled and Disabled override them, even against
    a test that failed; status then shows a warning."""
    nccl_profile: Literal["None", "PcieLowLatency"] = "None"
    """Named set of NCCL variables. PcieLowLatency sets NCCL_PROTO=LL, NCCL_ALGO=Ring, NCCL_MIN_NCHANNELS=8 and
    NCCL_NTHREADS=512. Its effect is unproven: measure before and after."""
    env: Annotated[list[EnvVar], Field(max_length=16)] = []
    """NCCL_ and VLLM_ variables. They win over the derived ones, except where they would lose or corrupt data."""
    numa_binding: Literal["Cpus", "CpusAndMemory", "Disabled"] = "Cpus"
    """Binds the engine's processes to the NUMA nodes of their GPUs, where the node's labels give these. Cpus binds
    CPUs. CpusAndMemory also binds memory, which needs the capability SYS_NICE, so namespaces that enforce Pod Security
    baseline or restricted reject the pods. Disabled binds nothing."""
    hang_seconds: Annotated[int, Field(ge=10, le=3600)] = 90
    """Seconds without progress after which a starting engine counts as hung. It is restarted once, with the safe flags
    (no peer-to-peer). Raise it if starts on slow storage are reported as hangs."""


DEFAULT_QUESTION = "What is 17 + 25? Answer with the number only."
DEFAULT_ANSWER = r"\b42\W{0,3}$"
"""At the end of the answer, so that neither `42!!!!!!` nor `1742` passes."""


COUNT = 30
LONG_QUESTION = f"Count from 1 to {COUNT}. Write the numbers only, in one line, separated by commas."
LONG_ANSWER = r"(?<!\d)" + r"\D{1,3}".join(str(number) for number in range(1, COUNT + 1)) + r"\W{0,3}$"
"""All numbers in order, and nothing after them."""


class GoldenSpec(ApiModel):
    """A deterministic question that the engine must answer correctly before it is measured."""

    kind: Literal["Chat", "Completion"] = "Chat"
    """Endpoint to ask: Chat is /v1/chat/completions, Completion is /v1/completions."""
    prompt: Annotated[str, Field(min_length=1, max_length=4096)] = DEFAULT_QUESTION
    """The question, or for kind Completion the text to continue."""
    expect: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Regular expression that must match somewhere in the answer. If unset, the default question expects 42 at
    its end, and any other prompt fails only on a bad answer: empty, repetitive, with special tokens, or different when
    asked twice."""

    @property
    def expected(self) -> str | None:
        """`expect`, or the answer to the default question."""
        return self.expect or (DEFAULT_ANSWER if self.prompt == DEFAULT_QUESTION else None)


class ServingSpec(ApiModel):
    """Monitoring of replicas that have passed, from the engine's own counters: it sends no requests to the engine."""

    watch_seconds: Annotated[int, Field(ge=1, le=60)] = 5
    """Seconds between two checks. After three bad checks in a row the replica is measured again as soon as it is idle;
    after twelve it counts as degraded without a measurement."""
    tolerance_percent: Annotated[int, Field(ge=0, le=90)] = 10
    """Percent by which traffic may decode below the floor, because users' prompts draft worse than the gate's. Raise
    it if replicas are reported as degraded under your traffic and pass when measured."""
    stall_seconds: Annotated[int, Field(ge=10, le=3600)] = 60
    """Seconds without a step, with requests pending, after which the engine counts as hung. The replica becomes not
    ready and its engine is restarted."""
    on_degraded: Literal["Report", "Quarantine", "Restart"] = "Quarantine"
    """What to do with a degraded replica. Report: only report it in status and events. Quarantine: take it out of
    service until it is fast again. Restart: also restart its engine."""
    max_quarantined: Annotated[int, Field(ge=1, le=63)] | None = None
    """Most replicas in quarantine at the same time; 1 if unset. The last ready replica is never taken out."""


DEFAULT_TOLERANCE_PERCENT = 15


class ReadinessSpec(ApiModel):
    """What a replica must prove before it is ready. A change re-judges running replicas and restarts none."""

    floor: Literal["Fixed", "Learned"] = "Fixed"
    """Origin of the decode-speed floor. Fixed: minDecodeTokensPerSecond. Learned: the median of comparable replicas
    less learnedTolerancePercent, where that is higher than the fixed floor."""
    learned_tolerance_percent: Annotated[int, Field(ge=1, le=50)] | None = None
    """Percent by which a replica may be slower than that median; 15 if unset. Only with floor Learned."""
    min_decode_tokens_per_second: Annotated[int, Field(ge=1, le=2000)] = 60
    """Lowest decode speed of a single stream, in tokens per second. 60 is between what two cards reach without MTP (53)
    and with it (85). Lower it for slower cards or without speculation."""
    min_acceptance_percent: Annotated[int, Field(ge=1, le=100)] = 40
    """Lowest share of steps in which the model accepts the first drafted token, in percent. It does not depend on how
    many tokens are drafted. Not checked without speculation."""
    min_acceptance_length_percent: Annotated[int, Field(ge=100, le=600)] | None = None
    """Lowest mean acceptance length, in percent of a token: 150 means 1.5 tokens for each step, the model's own and
    half a drafted one. If unset, by method and number of drafted tokens: Mtp 140, 170; Dspark 140, 166, 180, 188, 192.
    """
    max_first_token_millis: Annotated[int, Field(ge=1, le=600000)] | None = None
    """Longest time to the first token, in milliseconds. Not checked if unset."""
    prompt_tokens: Annotated[int, Field(ge=256, le=1048576)] | None = None
    """Tokens of a long prompt, sent once the short one is fast enough. Its text is new each time, so that no prefix
    cache has it. 4096 if unset, or what a shorter context has room for. 4096 take 1 or 2 s on two cards."""
    min_prefill_tokens_per_second: Annotated[int, Field(ge=1, le=1000000)] | None = None
    """Lowest speed of reading that prompt, in tokens per second; 500 if unset, and in profile Custom not checked if
    unset."""
    min_depth_decode_percent: Annotated[int, Field(ge=1, le=100)] | None = None
    """Lowest decode speed after that prompt, in percent of the floor; 75 if unset. Lower it for a long promptTokens:
    decode gets slower with the context."""
    depth: Literal["Prompt", "Full"] = "Prompt"
    """Full adds one measurement with a prompt that fills the context, once for each start of an engine, while the
    replica serves and nobody has sent a request for a minute. It is given up as soon as somebody does. Its figures are
    in status.pods[].fullDepth; slow ones are a warning, and never take the replica out of service."""
    decode_tokens: Annotated[int, Field(ge=16, le=4096)] = 128
    """Tokens decoded in each timed sample. More tokens give steadier figures and a later Ready."""
    samples: Annotated[int, Field(ge=1, le=20)] = 3
    """Most timed samples. Their median counts. The gate stops earlier once the result is clear."""
    streams: Literal["One", "Full"] = "One"
    """Full adds a last round with engine.maxSequences concurrent requests, after the timed ones, because some faults
    show only under load."""
    features: Literal["Warn", "Require", "Skip"] = "Warn"
    """Whether enabled features are tried, each with a small request: the tool-call parser, the reasoning parser and
    JSON schema. Warn: a broken one is a warning in status. Require: it keeps the replica from becoming ready. Skip:
    none is tried."""
    golden: GoldenSpec = GoldenSpec()
    """The question that is asked first."""
    startup_timeout_seconds: Annotated[int, Field(ge=10, le=86400)] | None = None
    """Seconds from the engine's start until it must be healthy. If unset, 15 minutes plus 18 s for each GiB of weights.
    The time to download the model does not count."""
    request_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    """Timeout of each of the gate's own requests, in seconds."""
    retry_seconds: Annotated[int, Field(ge=5, le=3600)] = 30
    """Seconds until a replica that failed is measured again."""
    serving: ServingSpec = ServingSpec()
    """Monitoring of replicas that serve."""


class TopologySpreadSpec(ApiModel):
    """How evenly replicas are spread over the values of a node label."""

    topology_key: Annotated[str, Field(min_length=1, max_length=317)]
    """Label of nodes, such as kubernetes.io/hostname or topology.kubernetes.io/zone."""
    max_skew: Annotated[int, Field(ge=1, le=64)] = 1
    """Most replicas by which one value of the label may have more than another."""
    when_unsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"] = "ScheduleAnyway"
    """ScheduleAnyway prefers nodes that keep to maxSkew. DoNotSchedule uses no others, even if their GPUs are the only
    free ones."""


class PlacementSpec(ApiModel):
    """Which nodes may run engine pods, besides having two free GPUs."""

    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16)] = {}
    """Labels that a node must have. Use labels that your cluster autoscaler knows."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = []
    """Taints that engine pods tolerate."""
    topology_spread: Annotated[list[TopologySpreadSpec], Field(max_length=4)] = []
    """How replicas are spread over nodes, zones or other parts of the cluster. Kubernetes' own defaults if unset."""
    priority_class_name: (
        Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")] | None
    ) = None
    """PriorityClass of the engine pods. The scheduler may stop pods of a lower priority in favour of these. The
    cluster's default if unset."""


class RolloutSpec(ApiModel):
    """How replicas are replaced: one at a time, with a rollback if the new ones are slower."""

    state: Literal["Active", "Paused"] = "Active"
    """Paused keeps all replicas as they are until it is Active again."""
    max_slowdown_percent: Annotated[int, Field(ge=1, le=99)] = 10
    """Percent by which a new replica may decode slower than the previous template did. A slower one stops the rollout
    and rolls it back."""
    surge: Literal["Auto", "Disabled"] = "Auto"
    """Auto starts the new replica before it stops an old one, where two more GPUs are free. Disabled always stops the
    old one first."""
    engine_updates: Literal["Manual", "Paced"] = "Manual"
    """When engines restart for something that this spec did not change: a newer operator's default image or template,
    or flags that a node's labels now call for. Manual: once acceptUpdate names the update. Paced: by themselves, one
    replica at a time in the whole cluster. A new template is rolled back if its replicas are slower."""
    accept_update: Annotated[str, Field(max_length=64)] | None = None
    """Name of the engine update to take, from status.update.revision."""


class DrainSpec(ApiModel):
    """How a replica shuts down: it accepts no new requests and completes those in progress."""

    timeout_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """Seconds that requests in progress get to complete. Then the engine stops, and they are cut off. Raise it if you
    serve long answers."""


class PodMetadataSpec(ApiModel):
    """Labels and annotations of the engine pods, besides the operator's own."""

    labels: Annotated[dict[str, LabelValue], Field(max_length=16)] = {}
    """Labels, such as the one that a queue or a cost report looks for."""
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=16)] = {}
    """Annotations, such as those of a service mesh. An annotation for autoscalers of nodes that is set here is not set
    by the operator (docs/scaling.md)."""


class FlashSpec(ApiModel):
    """What to serve, and how fast it must be."""

    replicas: Annotated[int, Field(ge=0, le=64)] = 1
    """Desired number of replicas. Each takes two GPUs of one node. With `scaling` it is the autoscaler's: leave it
    out."""
    scaling: ScalingSpec | None = None
    """Autoscaling by demand. Without it, replicas stays as it is set."""
    model: ModelSpec
    """The checkpoint, where it comes from and the names it is served under."""
    engine: EngineSpec = EngineSpec()
    """How vLLM runs: its image, profile and arguments."""
    speculation: SpeculationSpec = SpeculationSpec()
    """Speculative decoding with the checkpoint's drafter."""
    interconnect: InterconnectSpec = InterconnectSpec()
    """How the two GPUs communicate: peer-to-peer, NCCL, custom all-reduce and NUMA binding."""
    readiness: ReadinessSpec = ReadinessSpec()
    """What a replica must prove before it is ready, and how it is monitored afterwards."""
    placement: PlacementSpec = PlacementSpec()
    """Which nodes may run engine pods."""
    rollout: RolloutSpec = RolloutSpec()
    """How replicas are replaced."""
    drain: DrainSpec = DrainSpec()
    """How a replica shuts down."""
    operator_class: Annotated[str, Field(max_length=40, pattern=CLASS_PATTERN)] | None = None
    """Which operator is responsible, where several are installed: the one with this --operator-class. The one without a
    class if unset."""
    pod_metadata: PodMetadataSpec = PodMetadataSpec()
    """Labels and annotations of the engine pods. A change rolls the replicas."""
    pod_template: dict[str, Any] | None = None
    """Strategic merge patch for the engine's pod template, for anything that has no field here. It is applied last.
    The API server validates only the resulting Deployment."""

    @classmethod
    def stored(cls, raw: dict[str, Any]) -> "FlashSpec":
        """Read a spec that is stored, also one that was stored before it had the bounds of today.

        Raises pydantic.ValidationError if this operator cannot understand it.
        """
        spec: FlashSpec = _STORED.validate_python(raw)
        return spec


_STORED = unbounded(FlashSpec)


class FlashDeployment(ApiModel):
    """A DeepSeekFlashDeployment as the operator reads it."""

    name: str
    namespace: str
    uid: str
    generation: int = 0
    spec: FlashSpec
    orders: DeploymentOrders = DeploymentOrders()

    @property
    def key(self) -> str:
        """NAMESPACE/NAME."""
        return f"{self.namespace}/{self.name}"

    @classmethod
    def from_object(cls, raw: dict[str, Any]) -> "FlashDeployment":
        """Read the API server's raw object. Raises pydantic.ValidationError if the spec cannot be read."""
        metadata = raw["metadata"]
        return cls(
            name=metadata["name"],
            namespace=metadata["namespace"],
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            spec=FlashSpec.stored(raw["spec"]),
            orders=DeploymentOrders.of(metadata.get("annotations")),
        )
