"""`spec.scaling`: which autoscaler sets `spec.replicas`, and how far it may go."""

from typing import Annotated, Literal

from pydantic import Field

from flash_operator.api import ApiModel

ADDRESS_PATTERN = r"^https?://[^\s/?#@]+(/[^\s?#]*)?$"


class PrometheusSource(ApiModel):
    """A Prometheus that scrapes the operator."""

    address: Annotated[str, Field(min_length=1, max_length=512, pattern=ADDRESS_PATTERN)]
    """Its address as KEDA reaches it, such as http://prometheus.monitoring.svc:9090, without user and password."""
    trigger_authentication: (
        Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")] | None
    ) = None
    """KEDA TriggerAuthentication in this namespace, with the credentials for that Prometheus."""
    auth_mode: Literal["Bearer", "Basic", "Tls", "Custom"] | None = None
    """How these credentials are sent (KEDA's authModes)."""


class IdleSpec(ApiModel):
    """How a deployment goes to zero and comes back, for minReplicas 0."""

    after_seconds: Annotated[int, Field(ge=60, le=604800)] | None = None
    """How long there must have been no request until the last replica is stopped. Default: the start-up budget of a
    replica (readiness.startupTimeoutSeconds), because the next request waits for a start."""
    hold_seconds: Annotated[int, Field(ge=1, le=3600)] = 600
    """How long the activator holds a request that arrives at zero. Then it answers 503 with Retry-After."""


class ScalingSpec(ApiModel):
    """Makes an autoscaler for this deployment, which then owns `spec.replicas` (docs/scaling.md)."""

    min_replicas: Annotated[int, Field(ge=0, le=64)] = 1
    """Fewest replicas. 0 needs KEDA and the chart's activator, which holds the first requests until a replica has
    started."""
    max_replicas: Annotated[int, Field(ge=1, le=64)]
    """Most replicas. Each takes two GPUs of one node."""
    target_percent: Annotated[int, Field(ge=1, le=100)] = 75
    """How busy replicas shall be, in percent of the requests that one decodes at the same time
    (engine.maxSequences)."""
    by: Literal["Auto", "Keda", "Hpa"] = "Auto"
    """Keda makes a ScaledObject (KEDA 2.17 or later). Hpa makes a HorizontalPodAutoscaler, which needs an adapter that
    serves the operator's metrics as external metrics. Auto takes KEDA where its API is."""
    source: Literal["Operator", "Prometheus"] = "Operator"
    """Where KEDA reads the demand. Operator: from the operator, which needs nothing else. Prometheus: from a Prometheus
    that scrapes the operator."""
    prometheus: PrometheusSource | None = None
    """That Prometheus, for source Prometheus."""
    scale_up_stabilization_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """How long the demand must be higher before replicas are started; 15 to 600. A single reading may count a user
    twice, and one replica too many costs two GPUs until it is stopped."""
    scale_down_stabilization_seconds: Annotated[int, Field(ge=0, le=3600)] = 600
    """How long the demand must be lower before a replica is stopped. The next one needs minutes to load again."""
    scale_down_period_seconds: Annotated[int, Field(ge=0, le=1800)] = 60
    """At most one replica is stopped in this time; 15 to 1800."""
    idle: IdleSpec | None = None
    """How it goes to zero and comes back, for minReplicas 0."""
