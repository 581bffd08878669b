"""The condition tree: what a person reads in each situation."""

from typing import Any, NamedTuple

import pytest

from builders import (
    a_flash,
    a_gate,
    a_live_deployment,
    a_node,
    a_pod,
    a_waiting_pod,
    an_observed,
    an_unschedulable_pod,
    condition,
)
from flash_operator.core.observed.snapshot import Observed
from flash_operator.core.plan import plan
from flash_operator.core.status.conditions import CHAINS

VERIFIED = a_node(gpu_link="phb", gpu_p2p="verified")


class Case(NamedTuple):
    """A situation, and the (status, reason) of the conditions under test."""

    observed: Observed
    expected: dict[str, tuple[str, str]]
    message: str = ""
    """Part of the message of the first condition in `expected`."""


def one_pod(gate: Any = None, *, ready: bool = False, node: Any = VERIFIED, **spec: Any) -> Observed:
    flash = a_flash(**spec)
    return an_observed(
        flash,
        pods=(a_pod(ready=ready),),
        nodes=(node,),
        gates={"flash-a": gate} if gate else {},
        children=(a_live_deployment(flash),),
    )


CASES = {
    "one replica passed and serves": Case(
        one_pod(a_gate(), ready=True),
        {
            "Ready": ("True", "Passed"),
            "Available": ("True", "Serving"),
            "Progressing": ("False", "Settled"),
            "TopologyResolved": ("True", "FlagsDerived"),
            "SpeculationActive": ("True", "DraftsAccepted"),
            "SmokeTestPassed": ("True", "Passed"),
            "Degraded": ("False", "AsWanted"),
        },
    ),
    "no node has two free GPUs: the scheduler's message": Case(
        an_observed(pods=(an_unschedulable_pod(message="0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),)),
        {
            "Progressing": ("False", "Unschedulable"),
            "Ready": ("False", "Unschedulable"),
            "Available": ("False", "Unschedulable"),
            "TopologyResolved": ("Unknown", "NoPodBound"),
            "SmokeTestPassed": ("False", "Unschedulable"),
        },
        "3 Insufficient nvidia.com/gpu",
    ),
    "a pod waits for the GPUs of a terminating one": Case(
        an_observed(
            pods=(
                an_unschedulable_pod("flash-new"),
                {**a_pod("flash-old"), "metadata": {**a_pod("flash-old")["metadata"], "deletionTimestamp": "now"}},
            )
        ),
        {"Ready": ("False", "EngineStarting"), "Progressing": ("True", "RollingOut")},
        "waiting for the GPUs of flash-old",
    ),
    "the image cannot be pulled: the kubelet's message": Case(
        an_observed(pods=(a_waiting_pod("ImagePullBackOff", 'Back-off pulling image "nowhere/engine:1"'),)),
        {"Progressing": ("False", "ImagePullBackOff"), "Available": ("False", "ImagePullBackOff")},
        "nowhere/engine:1",
    ),
    "the gate crashes: only the kubelet can report that": Case(
        an_observed(pods=(a_waiting_pod("CrashLoopBackOff", "back-off 40s", container="gate"),)),
        {"Ready": ("False", "CrashLoopBackOff")},
    ),
    "the engine crashes: the gate knows its last log lines, the kubelet does not": Case(
        an_observed(
            pods=(a_waiting_pod("CrashLoopBackOff", "back-off 40s restarting failed container"),),
            gates={"flash-a": a_gate("EngineExited", "exit code 1: ValueError: MTP weights missing")},
        ),
        {"Ready": ("False", "EngineExited"), "Progressing": ("False", "EngineExited")},
        "MTP weights missing",
    ),
    "the MTP head is dead": Case(
        one_pod(a_gate("DraftDead", "0 of 388 drafted tokens accepted")),
        {
            "SpeculationActive": ("False", "DraftDead"),
            "Ready": ("False", "DraftDead"),
            "SmokeTestPassed": ("False", "DraftDead"),
            "Available": ("False", "DraftDead"),
        },
        "0 of 388",
    ),
    "decode is too slow": Case(
        one_pod(a_gate("TooSlow", "decode 41 tok/s, wanted at least 60")),
        {"Ready": ("False", "TooSlow"), "SpeculationActive": ("Unknown", "NotMeasured")},
        "41 tok/s, wanted at least 60",
    ),
    "the engine is starting": Case(
        one_pod(a_gate("EngineStarting", "loading weights")),
        {
            "Progressing": ("True", "EngineStarting"),
            "Ready": ("False", "EngineStarting"),
            "SmokeTestPassed": ("Unknown", "NotMeasured"),
        },
        "loading weights",
    ),
    "the gate does not answer yet": Case(one_pod(), {"Progressing": ("True", "EngineStarting")}),
    "an unlabelled node: safe flags, with the remedy": Case(
        one_pod(a_gate(), ready=True, node=a_node()),
        {"TopologyResolved": ("False", "NodeUnlabelled"), "Ready": ("True", "Passed")},
        "deepseekflash.dev/gpu-link",
    ),
    "an untested pair": Case(
        one_pod(a_gate(), ready=True, node=a_node(gpu_link="phb", gpu_p2p="granted")),
        {"TopologyResolved": ("False", "LinksUnproved")},
        "when both GPUs of the node are free for two minutes",
    ),
    "more than two cards, which are never tested": Case(
        one_pod(
            a_gate(),
            ready=True,
            node={
                **a_node(gpu_link="sys", gpu_p2p="granted"),
                "status": {"allocatable": {"nvidia.com/gpu": "5"}},
            },
        ),
        {"TopologyResolved": ("False", "LinksUnproved")},
        "node-1 has 5 GPUs: only nodes with two are tested",
    ),
    "a mistyped label": Case(
        one_pod(a_gate(), ready=True, node=a_node(gpu_link="pbh", gpu_p2p="verified")),
        {"TopologyResolved": ("False", "LabelNotUnderstood")},
        "node node-1: deepseekflash.dev/gpu-link='pbh' is not one of nvlink, pix",
    ),
    "one of two serves, the other is slow": Case(
        an_observed(
            a_flash(replicas=2),
            pods=(a_pod("flash-a", ready=True), a_pod("flash-b")),
            nodes=(VERIFIED,),
            gates={"flash-a": a_gate(), "flash-b": a_gate("TooSlow", "41 tok/s")},
        ),
        {
            "Degraded": ("True", "TooSlow"),
            "Available": ("True", "Serving"),
            "Ready": ("False", "TooSlow"),
        },
        "1 of 2 replicas ready; flash-b: 41 tok/s",
    ),
    "a quota prevents pods from being created": Case(
        an_observed(
            children=(
                {
                    "kind": "Deployment",
                    "metadata": {"name": "flash", "generation": 1},
                    "spec": {"template": {"metadata": {}}},
                    "status": {
                        "observedGeneration": 1,
                        "conditions": [
                            {
                                "type": "ReplicaFailure",
                                "status": "True",
                                "reason": "FailedCreate",
                                "message": "exceeded quota: gpus",
                            }
                        ],
                    },
                },
            )
        ),
        {"Progressing": ("False", "FailedCreate"), "Ready": ("False", "FailedCreate")},
        "exceeded quota",
    ),
    "a rollout is in progress while the old replica serves": Case(
        an_observed(
            pods=(a_pod(ready=True),),
            nodes=(VERIFIED,),
            gates={"flash-a": a_gate()},
            children=(a_live_deployment(a_flash(), updated=0),),
        ),
        {
            "Progressing": ("True", "RollingOut"),
            "Ready": ("False", "RollingOut"),
            "Available": ("True", "Serving"),
        },
    ),
    "scaled to zero": Case(
        an_observed(a_flash(replicas=0)),
        {
            "Ready": ("False", "ScaledToZero"),
            "Available": ("False", "ScaledToZero"),
            "Progressing": ("False", "Settled"),
        },
    ),
    "speculation is disabled in the spec": Case(
        one_pod(a_gate(), ready=True, speculation={"method": "Disabled"}),
        {"SpeculationActive": ("False", "Disabled"), "Ready": ("True", "Passed")},
    ),
    "custom all-reduce forced on a node whose p2p test hung": Case(
        one_pod(
            a_gate(),
            ready=True,
            node=a_node(gpu_link="phb", gpu_p2p="hang"),
            interconnect={"customAllReduce": "Enabled"},
        ),
        {"TopologyResolved": ("False", "CustomAllReduceForced")},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_conditions(case: Case) -> None:
    status = plan(case.observed).status

    found = {name: condition(status, name) for name in case.expected}
    assert {name: (c["status"], c["reason"]) for name, c in found.items()} == case.expected
    assert case.message in found[next(iter(case.expected))]["message"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_first_reconcile_sets_every_condition_with_a_reason_and_a_message(case: Case) -> None:
    status = plan(case.observed).status

    assert status is not None
    assert [c["type"] for c in status["conditions"]] == list(CHAINS)
    assert all(c["reason"] and c["message"] and c["observedGeneration"] == 1 for c in status["conditions"])


def test_the_transition_time_changes_only_with_the_status() -> None:
    first = plan(one_pod(a_gate("TooSlow", "41 tok/s"))).status
    assert first is not None
    earlier = {
        **first,
        "conditions": [{**c, "lastTransitionTime": "2026-01-01T00:00:00Z"} for c in first["conditions"]],
    }

    flash = a_flash()
    second = plan(
        an_observed(
            flash,
            pods=(a_pod(ready=True),),
            nodes=(VERIFIED,),
            gates={"flash-a": a_gate()},
            children=(a_live_deployment(flash),),
            live_status=earlier,
        )
    ).status

    assert condition(second, "Ready")["lastTransitionTime"] == "2026-11-24T12:00:00Z"
    assert condition(second, "TopologyResolved")["lastTransitionTime"] == "2026-01-01T00:00:00Z"
