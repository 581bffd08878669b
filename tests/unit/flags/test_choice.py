"""The fastest all-reduce of those that passed: by measurement if there is one, else by the table."""

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
    "NCCL is much faster": ("T3", VariantTimes(60, 40, 90), NCCL),
    "NCCL is slightly faster": ("T3", VariantTimes(42, 40, 90), ON),
    "custom is faster across sockets": ("T4", VariantTimes(40, 60, 90), ON),
    "custom is slightly faster across sockets": ("T4", VariantTimes(38, 40, 90), NCCL),
    "shared memory beats custom": ("T3", VariantTimes(60, 70, 40), SHARED_MEMORY),
    "shared memory beats NCCL": ("T4", VariantTimes(None, 60, 40), SHARED_MEMORY),
    "shared memory beats NCCL, but not custom": ("T3", VariantTimes(35, 60, 40), ON),
    "the peer variant was not measured": ("T3", VariantTimes(None, 60, 90), ON),
    "only the peer variant was measured": ("T4", VariantTimes(10, None, None), NCCL),
    "no figures": ("T2", VariantTimes(None, None, None), ON),
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


def a_variant(name: str, micros: float, **extra: object) -> dict[str, object]:
    return {"arm": name, "outcome": "healthy", "micros": dict.fromkeys(map(str, DECODE_BYTES), micros), **extra}


def a_measured_node(p2p: str = "verified", kernel: str = "vllm") -> NodeFacts:
    node = a_node(gpu_link="phb", gpu_p2p=p2p)
    variants = [a_variant("nccl", 10.0), a_variant("ncclP2pOff", 30.0), a_variant("peer", 20.0, kernel=kernel)]
    node["metadata"]["annotations"] = {P2P_REPORT_ANNOTATION: json.dumps({"verdict": "healthy", "arms": variants})}
    return NodeFacts.from_node(node)


def test_a_measured_node_gets_the_fastest_with_the_figures_in_the_reason() -> None:
    made = derive(a_measured_node(), InterconnectSpec(), {})
    (argument,) = made.args
    assert argument.value == DISABLE_CUSTOM_ALL_REDUCE
    assert argument.source == "p2pTest"
    assert "custom all-reduce 80 us, NCCL 40 us" in argument.reason


def test_times_of_another_kernel_than_the_engines_decide_nothing() -> None:
    assert derive(a_measured_node(kernel="triton"), InterconnectSpec(), {}).args == ()


def test_times_decide_nothing_without_a_valid_verdict() -> None:
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
