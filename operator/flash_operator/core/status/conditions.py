"""The CR's conditions, each computed by an ordered chain of checks.

Ready               as many replicas as wanted have passed and serve
  Available         at least one replica serves
  Progressing       something is still changing without help; False with a reason if only a person can help
  TopologyResolved  every bound replica runs with the flags that its node's labels call for
  SpeculationActive the MTP head's drafts are accepted, according to the engine's own counters
  SmokeTestPassed   every replica was measured and passed
Degraded            it serves, but with fewer or slower replicas than it should
UpdateAvailable     this operator would start other engines than those that run
ScalingActive       an autoscaler sets spec.replicas; only with spec.scaling
SpecValid           in `spec_condition`, because it is about no replica

A check returns a `ConditionState` or None; the first state in the chain is the condition's. All others are set
from the first reconcile on. Conventions: kubernetes/community, sig-architecture/api-conventions.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flash_contracts.verdict_reason import Reason
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.engine_args import TENSOR_PARALLEL_SIZE
from flash_operator.core.status.replica_summary import ReplicaSummary


@dataclass(frozen=True)
class ConditionState:
    """Status, reason in CamelCase, and a message that includes the remedy."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


Check = Callable[[ReplicaSummary], ConditionState | None]

SLOW = frozenset({Reason.TOO_SLOW, Reason.FIRST_TOKEN_TOO_SLOW, Reason.PREFILL_TOO_SLOW, Reason.TOO_SLOW_AT_DEPTH})
STARTED_OR_PASSED = frozenset({Reason.ENGINE_STARTING, Reason.PASSED})
SPECULATION_FAILURES = frozenset({Reason.SPECULATION_ABSENT, Reason.DRAFT_DEAD, Reason.ACCEPTANCE_TOO_LOW})


def scaled_to_zero(summary: ReplicaSummary) -> ConditionState | None:
    if summary.wanted:
        return None
    state = summary.scaling.state if summary.scaling else None
    wakes = (
        "; the next request starts a replica"
        if state and state.reason == "ScaledToZero" and state.status == "True"
        else ""
    )
    return ConditionState("False", "ScaledToZero", f"spec.replicas is 0{wakes}")


def complete(summary: ReplicaSummary) -> ConditionState | None:
    if not summary.complete:
        return None
    return ConditionState(
        "True", "Passed", f"{summary.ready} of {summary.wanted} replicas passed their smoke test and serve"
    )


def pods_refused(summary: ReplicaSummary) -> ConditionState | None:
    """The API server rejected a child, or the Deployment cannot create pods because of a quota or a policy."""
    return ConditionState("False", summary.failure.reason, summary.failure.message) if summary.failure else None


def not_restored(summary: ReplicaSummary) -> ConditionState | None:
    """The requested checkpoint is not restored yet, even if the previous one still serves."""
    if summary.mtp_restore is None or summary.mtp_restore.done:
        return None
    message = f"{_counts(summary)}; {summary.mtp_restore.status.message}"
    return ConditionState("False", summary.mtp_restore.reason, message)


def restoring(summary: ReplicaSummary) -> ConditionState | None:
    """Progressing while the restore Job runs, not progressing once only a person can help."""
    if summary.mtp_restore is None or summary.mtp_restore.done:
        return None
    status: Literal["True", "False"] = "True" if summary.mtp_restore.progressing else "False"
    return ConditionState(status, summary.mtp_restore.reason, summary.mtp_restore.status.message)


def rolled_back(summary: ReplicaSummary) -> ConditionState | None:
    """The requested template does not run, even if the previous one serves. An update is not what was requested."""
    if summary.rollout is None or summary.rollout.state != "RolledBack" or summary.rollout.is_update:
        return None
    return ConditionState(
        "False", "RolledBack", f"{_counts(summary)} with the previous template; {summary.rollout.message}"
    )


def paused(summary: ReplicaSummary) -> ConditionState | None:
    if summary.rollout is None or summary.rollout.state != "Paused":
        return None
    if not summary.rolling and len(summary.replicas) >= summary.wanted:
        return None
    return ConditionState("False", "Paused", f"{_counts(summary)}; {summary.rollout.message}")


def worst_replica(summary: ReplicaSummary) -> ConditionState | None:
    if summary.worst is None:
        return None
    return ConditionState("False", summary.worst.verdict.reason, _worst(summary, summary.worst))


def still_rolling(summary: ReplicaSummary) -> ConditionState | None:
    if not summary.rolling:
        return None
    return ConditionState("False", "RollingOut", f"{_counts(summary)}; the rollout is in progress")


def pods_missing(summary: ReplicaSummary) -> ConditionState | None:
    return ConditionState(
        "False", "PodsMissing", f"{_counts(summary)}; the Deployment has not created the other pods yet"
    )


def some_ready(summary: ReplicaSummary) -> ConditionState | None:
    return ConditionState("True", "Serving", _counts(summary)) if summary.ready else None


def stuck_replica(summary: ReplicaSummary) -> ConditionState | None:
    """The scheduler or the kubelet reports why a pod cannot start; nothing changes until a person acts."""
    return worst_replica(summary) if summary.worst and summary.worst.stuck else None


def failed_replica(summary: ReplicaSummary) -> ConditionState | None:
    """The gate's verdict is a failure. It measures again, but a broken MTP head or a slow link does not heal itself."""
    if summary.worst is None or not summary.worst.verdict.is_failure:
        return None
    return worst_replica(summary)


def moving(summary: ReplicaSummary) -> ConditionState | None:
    if summary.rolling:
        return ConditionState("True", "RollingOut", f"{_counts(summary)}; the rollout is in progress")
    if summary.worst:
        return ConditionState("True", summary.worst.verdict.reason, _worst(summary, summary.worst))
    if len(summary.replicas) != summary.wanted:
        return ConditionState("True", "PodsMissing", _counts(summary))
    return None


def settled(summary: ReplicaSummary) -> ConditionState | None:
    return ConditionState("False", "Settled", "no change is in progress")


def no_pod_bound(summary: ReplicaSummary) -> ConditionState | None:
    if any(replica.derived for replica in summary.replicas):
        return None
    return ConditionState("Unknown", "NoPodBound", "flags are derived from node labels; no pod is bound to a node yet")


def flags_conflict(summary: ReplicaSummary) -> ConditionState | None:
    """The user's override contradicts a tested verdict, or the labels contradict each other."""
    for replica in summary.replicas:
        for conflict in replica.derived.conflicts if replica.derived else ():
            return ConditionState("False", conflict.reason, f"node {replica.node_name}: {conflict.message}")
    return None


def label_not_understood(summary: ReplicaSummary) -> ConditionState | None:
    """Checked before its effects: restarting an engine with the flags of a mistyped label would only make it slower."""
    for replica in summary.replicas:
        for warning in replica.node.warnings if replica.node else ():
            message = f"node {replica.node_name}: {warning}; treated as unknown: correct the label or remove it"
            return ConditionState("False", "LabelNotUnderstood", message)
    return None


def flags_outdated(summary: ReplicaSummary) -> ConditionState | None:
    """Engines that serve are never restarted silently: their owner decides when."""
    names = [replica.name for replica in summary.replicas if replica.flags_outdated]
    if not names:
        return None
    return ConditionState(
        "False",
        "FlagsOutdated",
        f"running with flags that differ from those their nodes' labels now call for: {', '.join(names)}; "
        "take the engine update in status.update to apply the new flags",
    )


def node_unlabelled(summary: ReplicaSummary) -> ConditionState | None:
    """Row T8: the links of the node are unknown. The safe flags never hang, but they are slower."""
    nodes = sorted({str(r.node_name) for r in summary.replicas if r.derived and r.derived.row == "T8"})
    if not nodes:
        return None
    return ConditionState(
        "False",
        "NodeUnlabelled",
        f"safe flags on {', '.join(nodes)} because the links between the GPUs are unknown; label the node with "
        "deepseekflash.dev/gpu-link and deepseekflash.dev/gpu-p2p (docs/topology.md)",
    )


def links_unproved(summary: ReplicaSummary) -> ConditionState | None:
    """Row T5: fast flags may be possible but are untested. While engines hold the GPUs, the p2p test cannot run."""
    unproved = [r for r in summary.replicas if r.derived and r.derived.row == "T5"]
    if not unproved:
        return None
    many = {str(r.node_name): r.node.gpus for r in unproved if r.node and r.node.gpus > TENSOR_PARALLEL_SIZE}
    pairs = sorted({str(r.node_name) for r in unproved} - set(many))
    remedies = [_FREE_THE_PAIR] if pairs else []
    remedies += [f"{name} has {gpus} GPUs: {_LEAVE_A_PAIR}" for name, gpus in sorted(many.items())]
    return ConditionState(
        "False",
        "LinksUnproved",
        f"safe flags on {', '.join(sorted({*pairs, *many}))}: the driver grants peer-to-peer, but it is untested; "
        f"{'; '.join(remedies)} (docs/topology.md)",
    )


_FREE_THE_PAIR = "the operator tests it when both GPUs of the node are free for two minutes"
_LEAVE_A_PAIR = (
    "only nodes with two are tested, because any two may become an engine's; its events say which two to leave to it"
)


def topology_resolved(summary: ReplicaSummary) -> ConditionState | None:
    rows = sorted({replica.derived.row for replica in summary.replicas if replica.derived})
    return ConditionState(
        "True", "FlagsDerived", f"flags derived from node labels, row {', '.join(rows)} of docs/topology.md"
    )


def speculation_disabled(summary: ReplicaSummary) -> ConditionState | None:
    if summary.speculation_wanted:
        return None
    return ConditionState("False", "Disabled", "spec.speculation.method is Disabled")


def speculation_failed(summary: ReplicaSummary) -> ConditionState | None:
    for replica in summary.replicas:
        if replica.verdict.reason in SPECULATION_FAILURES:
            return ConditionState("False", replica.verdict.reason, f"{replica.name}: {replica.verdict.message}")
    return None


def drafts_accepted(summary: ReplicaSummary) -> ConditionState | None:
    shares = [gate.measurement.acceptance_percent for gate in summary.measured if gate.measurement]
    known = [share for share in shares if share is not None]
    if not known:
        return None
    return ConditionState(
        "True", "DraftsAccepted", f"at least {int(min(known))} % of drafted tokens accepted on every replica"
    )


def not_measured(summary: ReplicaSummary) -> ConditionState | None:
    return ConditionState("Unknown", "NotMeasured", "no replica has been measured yet")


def all_passed(summary: ReplicaSummary) -> ConditionState | None:
    return ConditionState("True", "Passed", _figures(summary)) if summary.complete else None


def some_slower(summary: ReplicaSummary) -> ConditionState | None:
    if not summary.ready or not (summary.worst and summary.worst.verdict.reason not in STARTED_OR_PASSED):
        return None
    return ConditionState("True", summary.worst.verdict.reason, _worst(summary, summary.worst))


def degraded_serving(summary: ReplicaSummary) -> ConditionState | None:
    """A replica passed and then became slow or hung while serving, whether it is still in service or not."""
    for replica in summary.replicas:
        reason, message = replica.verdict
        if reason == Reason.DEGRADED:
            service = "in service" if replica.ready else "taken out of service"
            return ConditionState("True", "Degraded", f"{replica.name}: {message}; {service}")
    return None


def recovered_slower(summary: ReplicaSummary) -> ConditionState | None:
    """A replica hung or read corrupt data with fast flags, and is below its floor with the safe ones."""
    for replica in summary.replicas:
        if replica.incident and replica.flags_origin == "recovery" and replica.verdict.reason in SLOW:
            message = (
                f"{replica.name} restarted with the safe flags after {replica.incident}; "
                f"with them: {replica.verdict.message}; repair the host (docs/topology.md) or lower the floor"
            )
            return ConditionState("True", "RecoveredSlower", message)
    return None


def running_on_fallback(summary: ReplicaSummary) -> ConditionState | None:
    """The launcher used the safe flags although the node's labels allow faster ones."""
    names = [r.name for r in summary.replicas if r.ready and r.flags_outdated and r.flags_origin == "fallback"]
    if not names:
        return None
    message = f"serving with the safe flags because the flags annotation came too late: {', '.join(names)}"
    return ConditionState("True", "FallbackFlags", message)


def revision_moved(summary: ReplicaSummary) -> ConditionState | None:
    """A branch or tag moved between two downloads, so replicas may answer the same question differently."""
    commits: dict[str, str] = {replica.commit: replica.name for replica in summary.replicas if replica.commit}
    if len(commits) < 2 or summary.rolling:  # noqa: PLR2004 - all on one commit
        return None
    where = ", ".join(f"{commit} on {name}" for commit, name in sorted(commits.items()))
    if any(":" in commit for commit in commits):  # digests of images
        remedy = "delete the pods with the older one, and use a digest instead of the tag"
        return ConditionState("True", "RevisionMoved", f"replicas serve different images: {where}; {remedy}")
    return ConditionState(
        "True", "RevisionMoved", f"replicas serve different commits: {where}; set model.revision to one"
    )


def up_to_date(summary: ReplicaSummary) -> ConditionState | None:
    if summary.update.state != "UpToDate":
        return None
    return ConditionState("False", "UpToDate", "the engines run what this operator would start")


def update_on_offer(summary: ReplicaSummary) -> ConditionState | None:
    update = summary.update
    message = "; ".join((update.message, *update.changes))
    return ConditionState("True", UPDATE_REASONS[update.state], message)


def as_wanted(summary: ReplicaSummary) -> ConditionState | None:
    return ConditionState("False", "AsWanted", "no replica is degraded")


UPDATE_REASONS = {
    "Available": "UpdateAvailable",
    "Waiting": "UpdateWaiting",
    "Updating": "Updating",
    "Rejected": "UpdateRejected",
}

CHAINS: dict[str, tuple[Check, ...]] = {
    "Ready": (
        pods_refused,
        scaled_to_zero,
        not_restored,
        rolled_back,
        complete,
        worst_replica,
        paused,
        still_rolling,
        pods_missing,
    ),
    "Available": (scaled_to_zero, some_ready, pods_refused, not_restored, worst_replica, pods_missing),
    "Progressing": (pods_refused, restoring, rolled_back, paused, stuck_replica, failed_replica, moving, settled),
    "TopologyResolved": (
        no_pod_bound,
        flags_conflict,
        label_not_understood,
        flags_outdated,
        node_unlabelled,
        links_unproved,
        topology_resolved,
    ),
    "SpeculationActive": (speculation_disabled, speculation_failed, drafts_accepted, not_measured),
    "SmokeTestPassed": (all_passed, failed_replica, not_measured),
    "Degraded": (degraded_serving, recovered_slower, some_slower, running_on_fallback, revision_moved, as_wanted),
    "UpdateAvailable": (up_to_date, update_on_offer),
}


def condition_states(summary: ReplicaSummary) -> dict[str, ConditionState]:
    """The state of every condition, in the order of the tree."""
    states = {name: next(filter(None, (check(summary) for check in chain))) for name, chain in CHAINS.items()}
    scaling = summary.scaling.state if summary.scaling else None
    return {**states, "ScalingActive": ConditionState(*scaling)} if scaling else states


def _counts(summary: ReplicaSummary) -> str:
    return f"{summary.ready} of {summary.wanted} replicas ready"


def _worst(summary: ReplicaSummary, replica: Replica) -> str:
    return f"{_counts(summary)}; {replica.name}: {replica.verdict.message}"


def _figures(summary: ReplicaSummary) -> str:
    speeds = [gate.measurement.decode_tokens_per_second for gate in summary.measured if gate.measurement]
    if not speeds:
        return "every replica passed"
    return f"every replica passed; the slowest decodes {int(min(speeds))} tok/s"
