"""The API, version v1alpha1: what status tells."""

from typing import Annotated, Literal

from pydantic import Field

from flash_operator.api.api_model import ApiModel
from flash_operator.api.model_status import ModelStatus

Name = Annotated[str, Field(max_length=253)]


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


class DeliveryStatus(ApiModel):
    """How far a model's way from its hub or registry has come."""

    phase: Annotated[str, Field(max_length=32)]
    """Resolving, Waiting (another replica fetches it), Downloading, Verifying, Unpacking, Complete or Failed."""
    commit: Annotated[str, Field(max_length=128)] | None = None
    """The commit that is served, whatever model.revision says; of an image its digest, whatever the tag."""
    fetched_bytes: int = 0
    """Bytes that are there."""
    total_bytes: int = 0
    """Bytes that it has."""
    bytes_per_second: int | None = None
    """Over the last 30 s."""
    eta_seconds: int | None = None
    """What is left at that rate."""
    warning: Annotated[str, Field(max_length=1024)] | None = None
    """That the revision is a branch or a tag, and what to pin."""
    attempts: int = 0
    """How often it was begun."""
    reported_time: Annotated[str, Field(max_length=40)] = ""
    """When these figures were true; while it is fetched they are written every 10 s."""


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
    delivery: DeliveryStatus | None = None
    """The model's way from its hub or registry, where it is fetched."""
    decode_tokens_per_second: int | None = None
    """Measured decode speed of one stream."""
    floor_tokens_per_second: int | None = None
    """What it was held to."""
    floor_origin: Literal["Fixed", "Learned"] | None = None
    """Learned where what others like it did is more than readiness.minDecodeTokensPerSecond."""
    quarantine: Literal["Granted", "Waiting"] | None = None
    """Granted: taken out of service until it is fast again. Waiting: slow, and too few others are ready."""
    acceptance_percent: int | None = None
    """Measured share of accepted draft tokens."""
    first_token_millis: int | None = None
    """Measured time to the first token."""
    checked_time: Annotated[str, Field(max_length=40)] | None = None
    """When it was measured."""
    image_digest: Annotated[str, Field(max_length=512)] | None = None
    """The engine image as the kubelet resolved it."""


class RolloutStatus(ApiModel):
    """Where the replacement of replicas stands."""

    state: Literal["Settled", "Rolling", "Paused", "RolledBack"]
    """RolledBack: the template that was asked for was tried, and is not in force."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why, with the figures."""
    revision: Annotated[str, Field(max_length=64)] = ""
    """Template in force."""
    proven_revision: Annotated[str, Field(max_length=64)] | None = None
    """The last template that all replicas passed with."""
    proven_tokens_per_second: int | None = None
    """What they decoded: the median."""
    rejected: Annotated[str, Field(max_length=64)] | None = None
    """What was tried and taken back; it is tried again once the template, the floors or spec.rollout change."""


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
    rollout: RolloutStatus | None = None
    """The replacement of replicas."""
    model: ModelStatus | None = None
    """The restored checkpoint, where spec.model.restoreMtp asks for one."""
    pods: Annotated[list[PodStatus], Field(max_length=128)] = []
    """Each replica."""
