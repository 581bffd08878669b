"""Flags from facts: a test for each row, the user's overrides, and what must hold for every combination."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_node
from flash_operator.api.v1alpha1 import InterconnectSpec
from flash_operator.core.flags import TABLE, FlagSet, derive
from flash_operator.core.flags.derivation import (
    ALLOCATOR,
    DISABLE_CUSTOM_ALL_REDUCE,
    OTHER_PEER_KERNELS,
    P2P_DISABLE,
    PCIE_LOW_LATENCY,
)
from flash_operator.core.flags.flag_set import Source
from flash_operator.core.flags.markdown import table
from flash_operator.core.nodes import LINKS, P2P_VERDICTS, VOCABULARY, NodeFacts
from flash_operator.core.probe_report import ArmTimes

RTX = "NVIDIA-RTX-PRO-6000-Blackwell-Max-Q-Workstation-Edition"


def facts(product: str | None = None, driver: str | None = None, **labels: str) -> NodeFacts:
    node = a_node(**labels)
    if product:
        node["metadata"]["labels"]["nvidia.com/gpu.product"] = product
    if driver:
        node["metadata"]["labels"]["nvidia.com/cuda.driver-version.full"] = driver
    return NodeFacts.from_node(node)


def flags(known: NodeFacts | None, *, env: dict[str, str] | None = None, **interconnect: Any) -> FlagSet:
    return derive(known, InterconnectSpec.model_validate(interconnect), env or {})


def effect(made: FlagSet) -> dict[str, str]:
    """The whole set as one mapping; an argument stands for itself."""
    return {argument.value: "" for argument in made.args} | {v.name: v.value for v in made.env}


SAFE = {
    DISABLE_CUSTOM_ALL_REDUCE: "",
    "NCCL_IB_DISABLE": "1",
    P2P_DISABLE: "1",
    "VLLM_ALLREDUCE_USE_FLASHINFER": "0",
    "VLLM_ALLREDUCE_USE_FLASHINFER_PCIE_IPC": "0",
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
}
BASE = {"NCCL_IB_DISABLE": "1"}

ROWS = {
    "T1: an NVLink pair of another card": (facts("NVIDIA-B200", gpu_link="nvlink", gpu_p2p="verified"), "T1", BASE),
    "T2: behind one switch": (facts(gpu_link="pix", gpu_p2p="verified"), "T2", BASE),
    "T2: behind several switches": (facts(gpu_link="pxb", gpu_p2p="verified"), "T2", BASE),
    "T3: one host bridge": (facts(gpu_link="phb", gpu_p2p="verified"), "T3", {**BASE, "NCCL_P2P_LEVEL": "PHB"}),
    "T3: two host bridges of one socket": (
        facts(gpu_link="node", gpu_p2p="verified", gpu_pcie="gen5-x16"),
        "T3",
        {**BASE, "NCCL_P2P_LEVEL": "PHB"},
    ),
    "T3b: a Gen4 x8 slot": (
        facts(gpu_link="phb", gpu_p2p="verified", gpu_pcie="gen4-x8"),
        "T3b",
        {**BASE, "NCCL_P2P_LEVEL": "PHB"},
    ),
    "T3b: a Gen3 x16 slot": (
        facts(gpu_link="node", gpu_p2p="verified", gpu_pcie="gen3-x16"),
        "T3b",
        {**BASE, "NCCL_P2P_LEVEL": "PHB"},
    ),
    "T4: two sockets": (
        facts(gpu_link="sys", gpu_p2p="verified"),
        "T4",
        {**BASE, DISABLE_CUSTOM_ALL_REDUCE: "", "NCCL_P2P_LEVEL": "SYS"},
    ),
    "T5: the driver grants it, nobody proved it": (facts(gpu_link="pix", gpu_p2p="granted"), "T5", SAFE),
    "T5: verified under another driver": (
        facts(driver="595.84", gpu_link="phb", gpu_p2p="verified", gpu_p2p_driver="595.71.05"),
        "T5",
        SAFE,
    ),
    "T6: the chipset refuses": (facts(gpu_link="phb", gpu_p2p="cns"), "T6", SAFE),
    "T6: the driver's registry refuses": (facts(gpu_link="phb", gpu_p2p="dr"), "T6", SAFE),
    "T7: a probe hung": (facts(gpu_link="node", gpu_p2p="hang"), "T7", SAFE),
    "T7: a probe read wrong values": (facts(gpu_link="node", gpu_p2p="corrupt"), "T7", SAFE),
    "T7: the IOMMU translates": (facts(gpu_link="phb", gpu_p2p="verified", gpu_iommu="translated"), "T7", SAFE),
    "T7: ACS redirects": (facts(gpu_link="phb", gpu_p2p="verified", gpu_acs="redirect"), "T7", SAFE),
    "T8: no labels": (facts(), "T8", SAFE),
    "T8: the link alone": (facts(gpu_link="pix"), "T8", SAFE),
    "T8: no node at all": (None, "T8", SAFE),
    "T8: an NVLink label on a card that has none": (facts(RTX, gpu_link="nvlink", gpu_p2p="verified"), "T8", SAFE),
    "T8: a label that nobody understands": (facts(gpu_link="warp", gpu_p2p="verified"), "T8", SAFE),
}


@pytest.mark.parametrize(("known", "row", "expected"), ROWS.values(), ids=ROWS.keys())
def test_each_row_of_the_table(known: NodeFacts | None, row: str, expected: dict[str, str]) -> None:
    made = flags(known)
    assert made.row == row
    assert effect(made) == expected
    assert all(argument.reason for argument in made.args)
    assert all(variable.reason for variable in made.env)


def test_every_row_of_the_table_is_tested() -> None:
    assert {row for _, row, _ in ROWS.values()} == set(TABLE)


def test_the_products_name_never_decides() -> None:
    known = {"gpu_link": "phb", "gpu_p2p": "verified"}
    assert effect(flags(facts(RTX, **known))) == effect(flags(facts("NVIDIA-B200", **known)))


SOURCES = {
    "probe": flags(facts(gpu_link="phb", gpu_p2p="verified")).env[1],
    "label": flags(facts(gpu_link="phb", gpu_p2p="cns")).args[0],
    "fallback": flags(None).args[0],
    "user": flags(facts(gpu_link="phb", gpu_p2p="verified"), mode="Safe").args[0],
    "default": flags(None).env[0],
}


@pytest.mark.parametrize(("source", "flag"), SOURCES.items())
def test_each_flag_says_who_wanted_it(source: str, flag: Any) -> None:
    assert flag.source == source


def test_there_is_a_case_for_every_source() -> None:
    assert set(SOURCES) == set(get_args(Source))


def test_safe_mode_is_the_safe_set_on_the_best_of_nodes() -> None:
    assert effect(flags(facts(gpu_link="pix", gpu_p2p="verified"), mode="Safe")) == SAFE


def test_fast_mode_trusts_the_driver_and_says_so() -> None:
    made = flags(facts(gpu_link="phb", gpu_p2p="granted"), mode="Fast")
    assert made.row == "T3"
    assert made.env[1].source == "user"


@pytest.mark.parametrize("verdict", ["hang", "corrupt", "cns", "unknown"])
def test_fast_mode_does_not_trust_what_failed_or_is_unknown(verdict: str) -> None:
    assert effect(flags(facts(gpu_link="phb", gpu_p2p=verdict), mode="Fast")) == SAFE


def test_a_forced_custom_all_reduce_wins_and_is_contradicted() -> None:
    made = flags(facts(gpu_link="phb", gpu_p2p="hang"), customAllReduce="Enabled")
    assert DISABLE_CUSTOM_ALL_REDUCE not in effect(made)
    assert P2P_DISABLE not in effect(made)
    assert [conflict.reason for conflict in made.conflicts] == ["CustomAllReduceForced"]
    assert "set it to Auto" in made.conflicts[0].message


def test_custom_all_reduce_can_be_switched_off_alone() -> None:
    made = flags(facts(gpu_link="phb", gpu_p2p="verified"), customAllReduce="Disabled")
    assert effect(made) == {**BASE, "NCCL_P2P_LEVEL": "PHB", DISABLE_CUSTOM_ALL_REDUCE: ""}


def test_a_variable_of_the_user_wins_over_a_derived_one() -> None:
    spec = InterconnectSpec.model_validate({"env": [{"name": "NCCL_P2P_LEVEL", "value": "SYS"}]})
    assert effect(derive(facts(gpu_link="phb", gpu_p2p="verified"), spec, {}))["NCCL_P2P_LEVEL"] == "SYS"


def test_switching_p2p_off_by_variable_switches_all_of_it_off() -> None:
    """NCCL_P2P_DISABLE alone boots and hangs later, in vLLM's own kernel."""
    spec = InterconnectSpec.model_validate({"env": [{"name": P2P_DISABLE, "value": "1"}]})
    made = effect(derive(facts(gpu_link="pix", gpu_p2p="verified"), spec, {}))
    assert made == SAFE


def test_the_named_profile_adds_its_four_variables_and_calls_them_unproven() -> None:
    made = flags(facts(gpu_link="phb", gpu_p2p="verified"), ncclProfile="PcieLowLatency")
    assert PCIE_LOW_LATENCY.items() <= effect(made).items()
    assert all("unproven" in v.reason for v in made.env if v.name in PCIE_LOW_LATENCY)


def test_expandable_segments_are_taken_away_from_custom_all_reduce() -> None:
    env = {ALLOCATOR: "expandable_segments:True"}
    made = flags(facts(gpu_link="phb", gpu_p2p="verified"), env=env)
    assert made.unset == (ALLOCATOR,)
    assert [conflict.reason for conflict in made.conflicts] == ["ExpandableSegments"]
    assert flags(facts(gpu_link="phb", gpu_p2p="hang"), env=env).unset == ()


def test_an_impossible_link_is_a_conflict() -> None:
    made = flags(facts(RTX, gpu_link="nvlink", gpu_p2p="verified"))
    assert [conflict.reason for conflict in made.conflicts] == ["ImpossibleLink"]


GARBAGE = ["", "NVLINK", "phb ", "phb,node", "../../etc", "x" * 63, "node\n", "1"]


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("label", VOCABULARY)
def test_a_garbage_label_is_unknown_and_named(label: str, value: str) -> None:
    known = facts(**{label.replace("-", "_"): value})
    assert any(label in warning and repr(value) in warning for warning in known.warnings)
    assert effect(flags(known)) == SAFE


def test_a_garbage_pcie_label_is_named_and_means_nothing() -> None:
    known = facts(gpu_link="phb", gpu_p2p="verified", gpu_pcie="gen9-x99")
    assert any("gen9-x99" in warning for warning in known.warnings)
    assert flags(known).row == "T3"


def test_a_kubelets_heartbeat_changes_no_fact() -> None:
    node = a_node(gpu_link="phb")
    beat = {**node, "status": {**node["status"], "conditions": [{"lastHeartbeatTime": "now"}], "images": []}}
    assert NodeFacts.from_node(node) == NodeFacts.from_node(beat)


def test_an_annotation_is_read_back_as_it_was() -> None:
    made = flags(facts(gpu_link="phb", gpu_p2p="hang"))
    assert FlagSet.from_annotation(made.to_annotation()) == made


BAD_ANNOTATIONS = {
    "not JSON": "{",
    "a list": "[]",
    "a number": "1",
    "no row": '{"args": [], "env": []}',
    "an argument without a value": '{"row": "T1", "args": [{}], "env": []}',
    "an unknown source": '{"row": "T1", "args": [{"value": "-x", "source": "magic", "reason": ""}], "env": []}',
}


@pytest.mark.parametrize("text", BAD_ANNOTATIONS.values(), ids=BAD_ANNOTATIONS.keys())
def test_a_bad_annotation_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        FlagSet.from_annotation(text)


def test_the_same_effect_for_another_reason_is_the_same() -> None:
    one, other = flags(facts(gpu_link="phb", gpu_p2p="hang")), flags(None)
    assert one != other
    assert one.same_effect(other)
    assert not one.same_effect(flags(facts(gpu_link="phb", gpu_p2p="verified")))


any_time = st.none() | st.sampled_from([10.0, 40.0, 90.0])
any_facts = st.builds(
    NodeFacts,
    name=st.just("n"),
    link=st.sampled_from(LINKS),
    p2p=st.sampled_from(P2P_VERDICTS),
    iommu=st.sampled_from(VOCABULARY["gpu-iommu"]),
    acs=st.sampled_from(VOCABULARY["gpu-acs"]),
    pcie_gigabytes_per_second=st.sampled_from([None, 3.9, 15.8, 31.5, 63.0]),
    product=st.sampled_from([None, RTX, "NVIDIA-B200"]),
    driver=st.sampled_from([None, "595.84"]),
    probed_driver=st.sampled_from([None, "595.84", "595.71.05"]),
    arm_times=st.none() | st.builds(ArmTimes, any_time, any_time, any_time),
)
any_variable = st.sampled_from(
    [
        {"name": P2P_DISABLE, "value": "1"},
        {"name": P2P_DISABLE, "value": "0"},
        {"name": "NCCL_SHM_DISABLE", "value": "1"},
        {"name": "NCCL_PROTO", "value": "LL,LL128"},
        {"name": "VLLM_ALLREDUCE_USE_FLASHINFER", "value": "1"},
        {"name": "NCCL_DEBUG", "value": "INFO"},
    ]
)
any_wish = st.builds(
    lambda mode, custom, profile, env: InterconnectSpec.model_validate(
        {"mode": mode, "customAllReduce": custom, "ncclProfile": profile, "env": env}
    ),
    st.sampled_from(["Auto", "Safe", "Fast"]),
    st.sampled_from(["Auto", "Enabled", "Disabled"]),
    st.sampled_from(["None", "PcieLowLatency"]),
    st.lists(any_variable, max_size=3, unique_by=lambda v: v["name"]),
)
any_engine_env = st.sampled_from([{}, {ALLOCATOR: "expandable_segments:True"}, {ALLOCATOR: "max_split_size_mb:64"}])


@given(st.none() | any_facts, any_wish, any_engine_env)
def test_every_set_is_consistent(known: NodeFacts | None, wish: InterconnectSpec, env: dict[str, str]) -> None:
    made = derive(known, wish, env)
    seen = effect(made)

    if seen.get(P2P_DISABLE) == "1":
        assert DISABLE_CUSTOM_ALL_REDUCE in seen
        assert all(seen[name] == "0" for name in OTHER_PEER_KERNELS)
    assert "NCCL_SHM_DISABLE" not in seen
    assert "LL128" not in seen.get("NCCL_PROTO", "")
    if DISABLE_CUSTOM_ALL_REDUCE not in seen and "expandable_segments:True" in env.get(ALLOCATOR, ""):
        assert ALLOCATOR in made.unset
    assert FlagSet.from_annotation(made.to_annotation()) == replace(made, conflicts=())


@given(any_facts, any_wish)
def test_what_is_unknown_never_yields_a_set_that_could_hang(known: NodeFacts, wish: InterconnectSpec) -> None:
    """Unless the user wrote so in as many words."""
    insisted = wish.custom_all_reduce == "Enabled" or any(v.name == P2P_DISABLE for v in wish.env)
    if insisted or (known.p2p in ("verified", "granted") and known.link != "unknown"):
        return
    seen = effect(derive(known, wish, {}))
    assert seen[P2P_DISABLE] == "1"
    assert DISABLE_CUSTOM_ALL_REDUCE in seen


@given(st.none() | any_facts, any_wish)
def test_flags_are_derived_the_same_way_every_time(known: NodeFacts | None, wish: InterconnectSpec) -> None:
    assert derive(known, wish, {}).to_annotation() == derive(known, wish, {}).to_annotation()


def test_the_documentation_shows_the_table_as_it_is() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "topology.md").read_text()
    assert table() in page
