"""The metrics of one deployment that follow from its object alone: from its status, as the operator last wrote it.

So a restart of the operator changes none of them, and `kubectl get dsf` and a dashboard show the same figures. What
changes without a write of the status is elsewhere: replicas and demand in `runtime.demand_board`, rollbacks and silent
gates in `runtime.deployment_collector`.

A figure that is unknown has no series: 0 would be a value. Tenants make deployments, so the number of series of one is
bounded: each metric has one, and `verdict_replicas` one for each reason that a replica has now, out of `REASONS`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flash_contracts.metric_definition import MetricDefinition
from flash_contracts.verdict_reason import Reason
from flash_operator.core.observed.kube import condition_of, moment_of
from flash_operator.core.observed.pod_failure import STUCK_WAITING
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.scaling.scaler import NAME_LABEL, NAMESPACE_LABEL

LABELS = (NAMESPACE_LABEL, NAME_LABEL)
EACH = "1 for each deployment"

OTHER = "Other"
REASONS = (*(str(reason) for reason in Reason), "Unschedulable", "SetupOverdue", *sorted(STUCK_WAITING), OTHER)
"""Values of the label `reason`. Other: one of the many reasons that a scheduler, a kubelet or a device plugin has."""


@dataclass(frozen=True)
class Sample:
    """One series of a deployment."""

    definition: MetricDefinition
    value: float
    more_labels: tuple[str, ...] = ()
    """Values of the labels besides the deployment's namespace and name."""


def of_deployment(name: str, text: str, *more_labels: str, most: str = EACH) -> MetricDefinition:
    return MetricDefinition(f"flash_operator_deployment_{name}", "gauge", text, (*LABELS, *more_labels), most)


Figure = Callable[[RawObject], float | None]


def deployment_samples(raw: RawObject) -> Iterator[Sample]:
    """Of a DeepSeekFlashDeployment with the status that it has now."""
    for definition, figure in FIGURES.items():
        value = figure(raw)
        if value is not None:
            yield Sample(definition, value)
    for reason, replicas in sorted(Counter(map(_reason, _pods(raw))).items()):
        yield Sample(VERDICTS, replicas, (reason,))
    for definition, part in STATES.items():
        state = (_status(raw).get(part) or {}).get("state")
        if state:
            yield Sample(definition, 1.0, (state,))


def _status(raw: RawObject) -> RawObject:
    return raw.get("status") or {}


def _pods(raw: RawObject) -> list[RawObject]:
    return _status(raw).get("pods") or []


def _reason(pod: RawObject) -> str:
    reason = str(pod.get("reason", ""))
    return reason if reason in REASONS else OTHER


def _replicas_with(name: str, value: str) -> Figure:
    return lambda raw: sum(pod.get(name) == value for pod in _pods(raw)) if _status(raw) else None


def _is_ready(raw: RawObject) -> float | None:
    """None before the first status."""
    status = (condition_of(raw, "Ready") or {}).get("status")
    return None if status is None else float(status == "True")


def _summary(raw: RawObject, name: str) -> float | None:
    figure: float | None = (_status(raw).get("summary") or {}).get(name)
    return figure


def _decode_speed(raw: RawObject) -> float | None:
    return _summary(raw, "decodeTokensPerSecond")


def _floor(raw: RawObject) -> float | None:
    """Floors may differ: that of the replica whose speed is shown."""
    speed = _decode_speed(raw)
    slowest = [pod for pod in _pods(raw) if speed is not None and pod.get("decodeTokensPerSecond") == speed]
    return max((floor for pod in slowest if (floor := pod.get("floorTokensPerSecond")) is not None), default=None)


def _acceptance(raw: RawObject) -> float | None:
    percent = _summary(raw, "acceptancePercent")
    return None if percent is None else percent / 100


def _acceptance_length(raw: RawObject) -> float | None:
    """Of those that passed, if any did: the same choice as that of the summary."""
    known = [pod for pod in _pods(raw) if pod.get("acceptanceLengthPercent") is not None]
    passed = [pod for pod in known if pod.get("reason") == Reason.PASSED]
    lengths = [float(pod["acceptanceLengthPercent"]) / 100 for pod in passed or known]
    return min(lengths, default=None)


def _seconds_to_ready(raw: RawObject) -> float | None:
    try:
        ready, created = _status(raw)["firstReadyTime"], raw["metadata"]["creationTimestamp"]
        return max(0.0, (moment_of(ready) - moment_of(created)).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None


FIGURES: dict[MetricDefinition, Figure] = {
    of_deployment("ready", "1 if the deployment is Ready, else 0"): _is_ready,
    of_deployment("first_ready_seconds", "Time from its creation until it was Ready for the first time"): (
        _seconds_to_ready
    ),
    of_deployment("quarantined_replicas", "Replicas that are out of service because they became slow"): (
        _replicas_with("quarantine", "Granted")
    ),
    of_deployment(
        "quarantine_waiting_replicas", "Slow replicas that stay in service because too few others are ready"
    ): _replicas_with("quarantine", "Waiting"),
    of_deployment("outdated_flags_replicas", "Replicas whose node's labels call for other flags than they have"): (
        _replicas_with("flagsOutdated", "Outdated")
    ),
    of_deployment(
        "decode_tokens_per_second", "Measured decode speed of one stream, of the slowest replica that passed"
    ): _decode_speed,
    of_deployment("decode_floor_tokens_per_second", "Floor that this speed was compared with"): _floor,
    of_deployment("acceptance_ratio", "Lowest share of accepted draft tokens, of the replicas that passed"): (
        _acceptance
    ),
    of_deployment(
        "acceptance_length_tokens", "Lowest mean number of tokens of a step, of the replicas that passed"
    ): _acceptance_length,
}
"""The metrics with one series. If no replica passed, the speeds are those of the ones that were measured."""

VERDICTS = of_deployment(
    "verdict_replicas",
    "Replicas by the reason of their verdict; a reason that none has now has no series",
    "reason",
    most=f"as many as it has replicas for each deployment, at most {len(REASONS)}",
)

STATES = {
    of_deployment("update", "1 for the state of the engine update; other states have no series", "state"): "update",
    of_deployment("rollout", "1 for the state of the rollout; other states have no series", "state"): "rollout",
}
"""The metrics of a state: the part of status that has it."""

DEFINITIONS = (*FIGURES, VERDICTS, *STATES)
