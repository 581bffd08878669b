"""The v1alpha1 API: `status`, what the operator observed."""

from typing import Annotated, Literal

from pydantic import Field

from flash_operator.api.clipping import StatusModel

Name = Annotated[str, Field(max_length=253)]


class Condition(StatusModel):
    """A condition, as in the Kubernetes API conventions."""

    type: Annotated[str, Field(max_length=64)]
    """Name of the condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    observed_generation: int = 0
    """Generation of the spec that this condition is about."""
    last_transition_time: Annotated[str, Field(max_length=32)]
    """When `status` last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=128)]
    """Machine-readable reason, in CamelCase."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Human-readable message, with the figures and what to do."""


class DeliveryStatus(StatusModel):
    """Progress of the model's download from its hub or registry."""

    phase: Annotated[str, Field(max_length=32)]
    """Resolving, Waiting (another replica downloads the same model), Downloading, Verifying, Unpacking, Complete or
    Failed."""
    commit: Annotated[str, Field(max_length=128)] | None = None
    """Commit (hf://) or digest (oci://) that is served, whatever model.revision or the tag points to now."""
    fetched_bytes: int = 0
    """Bytes downloaded so far."""
    total_bytes: int = 0
    """Size of the model in bytes."""
    bytes_per_second: int | None = None
    """Download rate over the last 30 s."""
    eta_seconds: int | None = None
    """Seconds until the download completes, at that rate."""
    warning: Annotated[str, Field(max_length=1024)] | None = None
    """Set if the revision is a branch or a tag; says what to pin."""
    attempts: int = 0
    """Number of attempts."""
    reported_time: Annotated[str, Field(max_length=40)] = ""
    """When these figures were reported. They are updated every 10 s during a download."""


class FullDepthStatus(StatusModel):
    """Figures of a replica with a prompt that fills the context."""

    prompt_tokens: int
    """Tokens of that prompt."""
    prefill_tokens_per_second: int
    """Measured speed of reading it, in tokens per second."""
    first_token_millis: int
    """Measured time to the first token after it, in milliseconds."""
    decode_tokens_per_second: int | None = None
    """Measured decode speed of a single stream after it, in tokens per second. Absent if no token came in time."""


class PodStatus(StatusModel):
    """A replica: its flags with their reasons, its measurements, and the gate's verdict."""

    name: Name
    """Name of the pod."""
    uid: Annotated[str, Field(max_length=64)]
    """UID of the pod."""
    node: Name | None = None
    """Node that the pod is bound to."""
    link: Annotated[str, Field(max_length=63)] | None = None
    """Link between the node's GPUs, from the label gpu-link."""
    # Aliased because the alias generator would make it p2P.
    p2p: Annotated[str, Field(max_length=63)] | None = Field(default=None, alias="p2p")
    """Peer-to-peer verdict for the node, from the label gpu-p2p."""
    row: Annotated[str, Field(max_length=16)] | None = None
    """Row of the flags table (docs/topology.md) that the flags come from."""
    flags: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=64)] | None = None
    """Flags in force, each with its source and its reason."""
    flags_origin: Annotated[str, Field(max_length=32)] | None = None
    """annotation: the operator passed the flags. fallback: none arrived in time, so the launcher used the safe flags.
    recovery: the launcher used the safe flags after an incident."""
    flags_outdated: Literal["Current", "Outdated"] | None = None
    """Outdated if the node's labels now call for other flags: see status.update."""
    incident: Annotated[str, Field(max_length=4096)] | None = None
    """Hang or data corruption that the launcher recovered from with the safe flags, and how it was detected."""
    incident_verdict: Literal["Pending", "Noted"] | None = None
    """Noted once the replica answered correctly without peer-to-peer and the verdict was written to the node's
    labels."""
    reason: Annotated[str, Field(max_length=128)]
    """Reason of the gate's verdict, or what keeps the pod from starting."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """The verdict in one sentence."""
    delivery: DeliveryStatus | None = None
    """Progress of the model's download, for models that are downloaded."""
    decode_tokens_per_second: int | None = None
    """Measured decode speed of a single stream, in tokens per second."""
    floor_tokens_per_second: int | None = None
    """Floor that this speed was compared with."""
    floor_origin: Literal["Fixed", "Learned"] | None = None
    """Learned if the floor learned from comparable replicas is above readiness.minDecodeTokensPerSecond."""
    quarantine: Literal["Granted", "Waiting"] | None = None
    """Granted: out of service until it is fast again. Waiting: slow but in service, because too few other replicas are
    ready."""
    acceptance_percent: int | None = None
    """Measured share of drafted tokens that the model accepted, in percent."""
    acceptance_by_position: Annotated[list[int], Field(max_length=8)] | None = None
    """Share of steps in which the first, the second, and so on, drafted token was accepted, in percent."""
    acceptance_length_percent: int | None = None
    """Measured mean acceptance length, in percent of a token: 150 means 1.5 tokens for each step."""
    first_token_millis: int | None = None
    """Measured time to the first token, in milliseconds."""
    warnings: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=8)] | None = None
    """Faults that do not keep the replica from serving, each with its reason: enabled features that do not work, while
    readiness.features is Warn, and slowness with a prompt that fills the context."""
    prompt_tokens: int | None = None
    """Tokens of the long prompt, to which the following three figures apply."""
    prefill_tokens_per_second: int | None = None
    """Measured speed of reading that prompt, in tokens per second."""
    prompt_first_token_millis: int | None = None
    """Measured time to the first token after that prompt, in milliseconds."""
    depth_decode_tokens_per_second: int | None = None
    """Measured decode speed of a single stream after that prompt, in tokens per second."""
    full_depth: FullDepthStatus | None = None
    """What was measured once with a prompt that fills the context, with readiness.depth Full."""
    checked_time: Annotated[str, Field(max_length=40)] | None = None
    """When the replica was measured."""
    image_digest: Annotated[str, Field(max_length=512)] | None = None
    """Digest of the engine image, as the kubelet resolved it."""


class RolloutStatus(StatusModel):
    """State of the rollout."""

    state: Literal["Settled", "Rolling", "Paused", "RolledBack"]
    """RolledBack: the requested template was tried and rolled back."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why, with the figures."""
    revision: Annotated[str, Field(max_length=64)] = ""
    """Hash of the template in force."""
    engine_image: Annotated[str, Field(max_length=512)] | None = None
    """Default engine image in force. A newer operator's does not replace it before the update is taken."""
    contract_version: int | None = None
    """Version of the documents between the operator and that image."""
    proven_revision: Annotated[str, Field(max_length=64)] | None = None
    """Hash of the last known good template: the last one with which all replicas passed."""
    proven_tokens_per_second: int | None = None
    """Median decode speed of those replicas, in tokens per second."""
    rejected: Annotated[str, Field(max_length=64)] | None = None
    """Names the attempt that was rolled back. It is repeated once the spec changes, except for spec.replicas, or, for
    an engine update, once there is another one."""


class UpdateStatus(StatusModel):
    """An engine update: changes that this operator would make to the running engines."""

    state: Literal["UpToDate", "Available", "Waiting", "Updating", "Rejected"] = "UpToDate"
    """Available: set spec.rollout.acceptUpdate to take it. Waiting: engineUpdates is Paced, and it is not this
    deployment's turn. Rejected: it was tried and rolled back."""
    revision: Annotated[str, Field(max_length=64)] = ""
    """Name of the update, for spec.rollout.acceptUpdate."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """What to do, or what it waits for."""
    changes: Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=16)] = []
    """What would change: one line for each value of the pod template, or for each replica with outdated flags."""
    rejected: Annotated[str, Field(max_length=64)] | None = None
    """Name of an attempt to take outdated flags that made a replica slower or fail. It is not repeated."""


class ModelStatus(StatusModel):
    """The checkpoint with its restored MTP head (spec.model.restoreMtp)."""

    path: Annotated[str, Field(max_length=600)]
    """Folder that the engines load once it is complete."""
    mtp: Literal["Restoring", "Restored", "Native", "Failed"]
    """Restored: by this deployment's Job or an earlier one. Native: the checkpoint already has its head. Failed: see
    message."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """The Job's result, or what it is waiting for."""
    matrices_gptq: int | None = None
    """Number of expert matrices quantised with GPTQ."""
    matrices_rounded: int | None = None
    """Number of expert matrices rounded to nearest: without a capture, without tokens for their expert, or where GPTQ
    was no better."""
    worst_error_per_million: int | None = None
    """Worst relative error of a matrix's output on held-out tokens, in parts per million. Absent without a capture."""
    seconds: int | None = None
    """Duration of the restoration in seconds."""


class DemandStatus(StatusModel):
    """How many replicas the requests of users call for (docs/scaling.md). Written at most every 10 s."""

    loading_replicas: int = 0
    """Replicas that are expected to serve, and do not yet."""
    unknown_replicas: int = 0
    """Ready replicas whose requests are unknown."""
    demand_percent: int | None = None
    """Demand in percent of a replica, in steps of 10: 140 means 1.4 replicas. Absent if it is unknown."""


class ScalingStatus(StatusModel):
    """The autoscaler that the operator made for spec.scaling."""

    kind: Literal["ScaledObject", "HorizontalPodAutoscaler"]
    """What it is."""
    name: Name
    """Its name."""
    uid: Annotated[str, Field(max_length=64)] | None = None
    """UID of the live one; absent while there is none."""


class StatusSummary(StatusModel):
    """The columns of `kubectl get dsf`."""

    replicas: Annotated[str, Field(max_length=16)]
    """Ready and desired replicas, as in 2/3."""
    decode_tokens_per_second: int | None = None
    """Decode speed of the slowest measured replica, in tokens per second."""
    acceptance_percent: int | None = None
    """Lowest acceptance of any measured replica, in percent."""
    update: Annotated[str, Field(max_length=16)] | None = None
    """State of the engine update; absent if the engines are up to date."""
    nodes: Annotated[str, Field(max_length=128)] | None = None
    """Nodes of the replicas: the first two, and how many more there are."""
    link: Annotated[str, Field(max_length=64)] | None = None
    """Links between the GPUs of these nodes."""
    # Aliased because the alias generator would make it p2P.
    p2p: Annotated[str, Field(max_length=64)] | None = Field(default=None, alias="p2p")
    """Peer-to-peer verdicts for these nodes."""
    row: Annotated[str, Field(max_length=32)] | None = None
    """Rows of the flags table that the replicas run with, with a * if the nodes' labels now call for others."""


class FlashStatus(StatusModel):
    """What the operator observed."""

    conditions: Annotated[list[Condition], Field(max_length=16)] = []
    """Ready is the summary. The others are Available, Progressing, TopologyResolved, SpeculationActive,
    SmokeTestPassed, Degraded and UpdateAvailable, with spec.scaling ScalingActive, and SpecValid where a stored spec
    breaks newer rules."""
    observed_generation: int = 0
    """Generation of the spec that this status is about."""
    replicas: int = 0
    """Number of existing replicas."""
    ready_replicas: int = 0
    """Number of replicas that passed and serve."""
    selector: Annotated[str, Field(max_length=256)] = ""
    """Label selector of the replicas' pods, for autoscalers."""
    endpoint: Annotated[str, Field(max_length=512)] = ""
    """Base URL of the OpenAI-compatible API inside the cluster."""
    summary: StatusSummary | None = None
    """The columns of `kubectl get dsf`."""
    rollout: RolloutStatus | None = None
    """State of the rollout."""
    update: UpdateStatus | None = None
    """The offered engine update and its progress."""
    model: ModelStatus | None = None
    """The checkpoint with its restored MTP head, if spec.model.restoreMtp asks for one."""
    demand: DemandStatus | None = None
    """How many replicas the requests of users call for."""
    scaling: ScalingStatus | None = None
    """The autoscaler, if spec.scaling asks for one and nothing is in its way."""
    pods: Annotated[list[PodStatus], Field(max_length=128)] = []
    """The replicas."""
