"""The condition tree, each condition an ordered chain of checks over the summary.

Ready               the summary: as many replicas as wanted have passed and serve
  Available         at least one serves
  Progressing       something is still moving by itself; False with a reason when only a person can help
  TopologyResolved  every bound replica runs with the flags that its node's labels call for
  SpeculationActive the MTP head's drafts are accepted, by the engine's own counters
  SmokeTestPassed   every replica was judged and passed
Degraded            it serves, but with fewer or slower replicas than it should

A check returns a `Finding` or None; the first one that finds something speaks. All conditions are set on first
sight. Conventions: kubernetes/community, sig-architecture/api-conventions.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flash_contracts.verdict_reason import Reason
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.status.replica_summary import ReplicaSummary


@dataclass(frozen=True)
class Finding:
    """Status ("True", "False", "Unknown"), reason in CamelCase, and a message that says what to do."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


Check = Callable[[ReplicaSummary], Finding | None]

SLOW = frozenset({Reason.TOO_SLOW, Reason.FIRST_TOKEN_TOO_SLOW})
STARTED_OR_PASSED = frozenset({Reason.ENGINE_STARTING, Reason.PASSED})
SPECULATION_FAILURES = frozenset({Reason.SPECULATION_ABSENT, Reason.DRAFT_DEAD, Reason.ACCEPTANCE_TOO_LOW})


def scaled_to_zero(summary: ReplicaSummary) -> Finding | None:
    """Nothing is wanted, so nothing is wrong: but nothing serves either."""
    return None if summary.wanted else Finding("False", "ScaledToZero", "spec.replicas is 0")


def complete(summary: ReplicaSummary) -> Finding | None:
    if not summary.complete:
        return None
    return Finding("True", "Passed", f"{summary.ready} of {summary.wanted} replicas passed their smoke test and serve")


def pods_refused(summary: ReplicaSummary) -> Finding | None:
    """The API server refused what the spec leads to, or a quota keeps the Deployment from making pods."""
    return Finding("False", summary.failure.reason, summary.failure.message) if summary.failure else None


def not_restored(summary: ReplicaSummary) -> Finding | None:
    """The checkpoint that is asked for is not there yet, however well the one before it serves."""
    if summary.mtp_restore is None or summary.mtp_restore.done:
        return None
    return Finding("False", summary.mtp_restore.reason, f"{_counts(summary)}; {summary.mtp_restore.status.message}")


def restoring(summary: ReplicaSummary) -> Finding | None:
    """Of Progressing: the Job goes on by itself, or only a person can help."""
    if summary.mtp_restore is None or summary.mtp_restore.done:
        return None
    status: Literal["True", "False"] = "True" if summary.mtp_restore.moving else "False"
    return Finding(status, summary.mtp_restore.reason, summary.mtp_restore.status.message)


def rolled_back(summary: ReplicaSummary) -> Finding | None:
    """What was asked for does not run, however well the former template serves."""
    if summary.rollout is None or summary.rollout.state != "RolledBack":
        return None
    return Finding("False", "RolledBack", f"{_counts(summary)} with the former template; {summary.rollout.message}")


def paused(summary: ReplicaSummary) -> Finding | None:
    if summary.rollout is None or summary.rollout.state != "Paused" or not summary.rolling:
        return None
    return Finding("False", "Paused", f"{_counts(summary)}; {summary.rollout.message}")


def worst_replica(summary: ReplicaSummary) -> Finding | None:
    if summary.worst is None:
        return None
    reason, message = summary.worst.verdict
    return Finding("False", reason, f"{_counts(summary)}; {summary.worst.name}: {message}")


def still_rolling(summary: ReplicaSummary) -> Finding | None:
    return Finding("False", "RollingOut", f"{_counts(summary)}; the rollout is under way") if summary.rolling else None


def pods_missing(summary: ReplicaSummary) -> Finding | None:
    return Finding("False", "PodsMissing", f"{_counts(summary)}; the Deployment has not made the others yet")


def some_ready(summary: ReplicaSummary) -> Finding | None:
    return Finding("True", "Serving", _counts(summary)) if summary.ready else None


def stuck_replica(summary: ReplicaSummary) -> Finding | None:
    """The scheduler or the kubelet said why it goes no further; nothing changes until a person acts."""
    return worst_replica(summary) if summary.worst and summary.worst.stuck else None


def failed_replica(summary: ReplicaSummary) -> Finding | None:
    """The gate's verdict is a failure. It measures again, but a broken head or a slow link does not heal itself."""
    if summary.worst is None or not summary.worst.verdict.is_failure:
        return None
    return worst_replica(summary)


def moving(summary: ReplicaSummary) -> Finding | None:
    if summary.rolling:
        return Finding("True", "RollingOut", f"{_counts(summary)}; the rollout is under way")
    if summary.worst:
        return Finding(
            "True",
            summary.worst.verdict.reason,
            f"{_counts(summary)}; {summary.worst.name}: {summary.worst.verdict.message}",
        )
    return Finding("True", "PodsMissing", _counts(summary)) if len(summary.replicas) != summary.wanted else None


def settled(summary: ReplicaSummary) -> Finding | None:
    return Finding("False", "Settled", "nothing is left to do")


def no_pod_bound(summary: ReplicaSummary) -> Finding | None:
    bound = any(replica.derived for replica in summary.replicas)
    return (
        None if bound else Finding("Unknown", "NoPodBound", "flags follow from a node, and no pod is bound to one yet")
    )


def flags_conflict(summary: ReplicaSummary) -> Finding | None:
    """The user's override speaks against a tested verdict, or the labels contradict each other."""
    for replica in summary.replicas:
        for conflict in replica.derived.conflicts if replica.derived else ():
            return Finding("False", conflict.reason, f"node {replica.node_name}: {conflict.message}")
    return None


def label_not_understood(summary: ReplicaSummary) -> Finding | None:
    """Before what follows from it: an engine that is started anew because of a typing error only gets slower."""
    for replica in summary.replicas:
        for warning in replica.node.warnings if replica.node else ():
            told = f"node {replica.node_name}: {warning}; it counts as unknown: correct it, or remove it"
            return Finding("False", "LabelNotUnderstood", told)
    return None


def flags_outdated(summary: ReplicaSummary) -> Finding | None:
    """Never a silent restart: the engines serve, and their owner decides when they roll."""
    names = [replica.name for replica in summary.replicas if replica.flags_outdated]
    if not names:
        return None
    return Finding(
        "False",
        "FlagsOutdated",
        f"running with other flags than their nodes' labels call for now: {', '.join(names)}; "
        "delete these pods one by one to take the new flags",
    )


def node_unlabelled(summary: ReplicaSummary) -> Finding | None:
    """T8: nothing is known of the node, so the safe set is in force. It never hangs, and it costs speed."""
    nodes = sorted({str(r.node_name) for r in summary.replicas if r.derived and r.derived.row == "T8"})
    if not nodes:
        return None
    return Finding(
        "False",
        "NodeUnlabelled",
        f"safe flags on {', '.join(nodes)}: the links are not known; label the node with "
        "deepseekflash.dev/gpu-link and deepseekflash.dev/gpu-p2p (docs/topology.md)",
    )


def links_unproved(summary: ReplicaSummary) -> Finding | None:
    """T5: fast flags are possible here, and nobody has tested them. Engines that hold the GPUs keep the test out."""
    nodes = sorted({str(r.node_name) for r in summary.replicas if r.derived and r.derived.row == "T5"})
    if not nodes:
        return None
    return Finding(
        "False",
        "LinksUnproved",
        f"safe flags on {', '.join(nodes)}: the driver grants peer-to-peer and nothing has tested it; the operator "
        "does when both GPUs of the node are free for two minutes (docs/topology.md)",
    )


def topology_resolved(summary: ReplicaSummary) -> Finding | None:
    rows = sorted({replica.derived.row for replica in summary.replicas if replica.derived})
    return Finding("True", "FlagsDerived", f"flags follow from node labels, row {', '.join(rows)} of docs/topology.md")


def speculation_disabled(summary: ReplicaSummary) -> Finding | None:
    return None if summary.speculation_wanted else Finding("False", "Disabled", "spec.speculation.method is Disabled")


def speculation_failed(summary: ReplicaSummary) -> Finding | None:
    for replica in summary.replicas:
        if replica.verdict.reason in SPECULATION_FAILURES:
            return Finding("False", replica.verdict.reason, f"{replica.name}: {replica.verdict.message}")
    return None


def drafts_accepted(summary: ReplicaSummary) -> Finding | None:
    shares = [gate.measurement.acceptance_percent for gate in summary.measured if gate.measurement]
    known = [share for share in shares if share is not None]
    if not known:
        return None
    return Finding(
        "True", "DraftsAccepted", f"at least {int(min(known))} % of drafted tokens accepted on every replica"
    )


def not_measured(summary: ReplicaSummary) -> Finding | None:
    return Finding("Unknown", "NotMeasured", "no replica has been measured yet")


def all_passed(summary: ReplicaSummary) -> Finding | None:
    return Finding("True", "Passed", _figures(summary)) if summary.complete else None


def some_slower(summary: ReplicaSummary) -> Finding | None:
    if not summary.ready or not (summary.worst and summary.worst.verdict.reason not in STARTED_OR_PASSED):
        return None
    return Finding(
        "True",
        summary.worst.verdict.reason,
        f"{_counts(summary)}; {summary.worst.name}: {summary.worst.verdict.message}",
    )


def degraded_serving(summary: ReplicaSummary) -> Finding | None:
    """It passed, and got slow or hung while it served; in service or not."""
    for replica in summary.replicas:
        reason, message = replica.verdict
        if reason == Reason.DEGRADED:
            told = "in service" if replica.ready else "taken out of service"
            return Finding("True", "Degraded", f"{replica.name}: {message}; {told}")
    return None


def recovered_slower(summary: ReplicaSummary) -> Finding | None:
    """It hung or read wrong data with fast flags, and without them it misses its floor."""
    for replica in summary.replicas:
        if replica.incident and replica.origin == "recovery" and replica.verdict.reason in SLOW:
            told = f"{replica.name} took the safe flags after {replica.incident}; with them: {replica.verdict.message}"
            return Finding("True", "RecoveredSlower", f"{told}; mend the host (docs/topology.md), or lower the floor")
    return None


def running_on_fallback(summary: ReplicaSummary) -> Finding | None:
    """The launcher fell back to the safe set although the node's labels allow faster flags."""
    names = [r.name for r in summary.replicas if r.ready and r.flags_outdated and _fell_back(r)]
    if not names:
        return None
    return Finding("True", "FallbackFlags", f"serving with the safe flags, handed over too late: {', '.join(names)}")


def revision_moved(summary: ReplicaSummary) -> Finding | None:
    """A branch went on between two fetches, so the same question may get two answers."""
    commits: dict[str, str] = {replica.commit: replica.name for replica in summary.replicas if replica.commit}
    if len(commits) < 2 or summary.rolling:  # noqa: PLR2004 - one commit is as it should be
        return None
    told = ", ".join(f"{commit} on {name}" for commit, name in sorted(commits.items()))
    if any(":" in commit for commit in commits):  # digests of images
        remedy = "delete the pods of the older one, and use a digest in place of the tag"
        return Finding("True", "RevisionMoved", f"replicas serve different images: {told}; {remedy}")
    return Finding("True", "RevisionMoved", f"replicas serve different commits: {told}; set model.revision to one")


def as_wanted(summary: ReplicaSummary) -> Finding | None:
    return Finding("False", "AsWanted", "nothing serves below what it should")


CHAINS: dict[str, tuple[Check, ...]] = {
    "Ready": (
        pods_refused,
        scaled_to_zero,
        not_restored,
        rolled_back,
        complete,
        worst_replica,
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
}


def findings(summary: ReplicaSummary) -> dict[str, Finding]:
    """The first finding of each chain, in the order of the tree."""
    return {name: next(filter(None, (check(summary) for check in chain))) for name, chain in CHAINS.items()}


def _fell_back(replica: Replica) -> bool:
    return bool(replica.gate and replica.gate.effective and replica.gate.effective.origin == "fallback")


def _counts(summary: ReplicaSummary) -> str:
    return f"{summary.ready} of {summary.wanted} replicas ready"


def _figures(summary: ReplicaSummary) -> str:
    slowest = min(
        (gate.measurement.decode_tokens_per_second for gate in summary.measured if gate.measurement),
        default=None,
    )
    return (
        "every replica passed" if slowest is None else f"every replica passed; the slowest decodes {int(slowest)} tok/s"
    )
