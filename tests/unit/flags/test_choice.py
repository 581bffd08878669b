"""The fastest of the ways that passed: by measurement where there is one, else by the table."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_node
from flash_contracts.flags import TABLE, derive
from flash_contracts.flags.choice import choose
from flash_contracts.flags.derivation import DISABLE_CUSTOM_ALL_REDUCE
from flash_contracts.flags.nccl_variables import P2P_DISABLE
from flash_contracts.names import P2P_REPORT_ANNOTATION
from flash_contracts.node_facts import NodeFacts
from flash_contracts.p2p_report import DECODE_BYTES, P2pReport, VariantTimes
from flash_operator.api.v1alpha1 import InterconnectSpec

ON, NCCL, SHARED_MEMORY = (True, True), (False, True), (False, False)

CASES = {
    "nothing measured, table says on": ("T3", None, ON),
    "nothing measured, table says NCCL": ("T4", None, NCCL),
    "custom is faster": ("T3", VariantTimes(40, 60, 90), ON),
    "NCCL is faster by much": ("T3", VariantTimes(60, 40, 90), NCCL),
    "NCCL is faster by a hair": ("T3", VariantTimes(42, 40, 90), ON),
    "custom is faster across sockets": ("T4", VariantTimes(40, 60, 90), ON),
    "custom is faster across sockets by a hair": ("T4", VariantTimes(38, 40, 90), NCCL),
    "shared memory beats custom": ("T3", VariantTimes(60, 70, 40), SHARED_MEMORY),
    "shared memory beats NCCL": ("T4", VariantTimes(None, 60, 40), SHARED_MEMORY),
    "shared memory beats NCCL, but not custom": ("T3", VariantTimes(35, 60, 40), ON),
    "the peer arm was not measured": ("T3", VariantTimes(None, 60, 90), ON),
    "only the peer arm was measured": ("T4", VariantTimes(10, None, None), NCCL),
    "nothing but names": ("T2", VariantTimes(None, None, None), ON),
}


@pytest.mark.parametrize(("row", "times", "expected"), CASES.values(), ids=CASES.keys())
def test_the_fastest_that_passed(row: str, times: VariantTimes | None, expected: tuple[bool, bool]) -> None:
    choice = choose(TABLE[row], times)
    assert (choice.custom_all_reduce, choice.p2p) == expected
    assert choice.why


TIMES = st.none() | st.floats(min_value=0.1, max_value=1e6)


@given(
    row=st.sampled_from([row for row in TABLE.values() if row.p2p]), times=st.builds(VariantTimes, TIMES, TIMES, TIMES)
)
def test_custom_all_reduce_never_comes_without_peer_to_peer(row: object, times: VariantTimes) -> None:
    choice = choose(row, times)  # type: ignore[arg-type] # sampled from rows
    assert choice.p2p or not choice.custom_all_reduce


def an_arm(name: str, micros: float, **extra: object) -> dict[str, object]:
    return {"arm": name, "outcome": "healthy", "micros": dict.fromkeys(map(str, DECODE_BYTES), micros), **extra}


def a_measured_node(p2p: str = "verified", kernel: str = "vllm") -> NodeFacts:
    node = a_node(gpu_link="phb", gpu_p2p=p2p)
    variants = [an_arm("nccl", 10.0), an_arm("ncclP2pOff", 30.0), an_arm("peer", 20.0, kernel=kernel)]
    node["metadata"]["annotations"] = {P2P_REPORT_ANNOTATION: json.dumps({"verdict": "healthy", "arms": variants})}
    return NodeFacts.from_node(node)


def test_a_node_that_was_measured_gets_what_was_faster_there_and_the_figures() -> None:
    made = derive(a_measured_node(), InterconnectSpec(), {})
    (argument,) = made.args
    assert argument.value == DISABLE_CUSTOM_ALL_REDUCE
    assert argument.source == "probe"
    assert "custom all-reduce 80 us, NCCL 40 us" in argument.reason


def test_times_of_another_kernel_than_the_engines_decide_nothing() -> None:
    assert derive(a_measured_node(kernel="triton"), InterconnectSpec(), {}).args == ()


def test_times_of_a_verdict_that_does_not_stand_decide_nothing() -> None:
    made = derive(a_measured_node("hang"), InterconnectSpec(), {})
    assert made.row == "T7"
    assert P2P_DISABLE in {variable.name for variable in made.env}
    trusted = derive(a_measured_node("granted"), InterconnectSpec(mode="Fast"), {})
    assert (trusted.row, trusted.args) == ("T3", ())


def test_a_report_with_a_size_missing_compares_nothing() -> None:
    variant = {"arm": "nccl", "outcome": "healthy", "micros": {"8192": 9.0}}
    assert P2pReport.of_text(json.dumps({"verdict": "healthy", "arms": [variant]})).variant_times == VariantTimes(
        None, None, None
    )
