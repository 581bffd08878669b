"""Derivation of flags: each row, the user's overrides, and what must hold for every combination."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_node
from flash_contracts.flags import TABLE, FlagSet, derive
from flash_contracts.flags.derivation import (
    DISABLE_CUSTOM_ALL_REDUCE,
    OTHER_PEER_KERNELS,
    PCIE_LOW_LATENCY,
)
from flash_contracts.flags.flag_set import Source
from flash_contracts.flags.markdown import table
from flash_contracts.flags.nccl_variables import P2P_DISABLE, p2p_is_off
from flash_contracts.node_facts import LINKS, P2P_VERDICTS, VOCABULARY, NodeFacts
from flash_contracts.p2p_report import VariantTimes
from flash_contracts.variable_aliases import ALLOCATOR
from flash_operator.api.v1alpha1 import InterconnectSpec

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
    "T5: the driver permits it, untested": (facts(gpu_link="pix", gpu_p2p="granted"), "T5", SAFE),
    "T5: verified under another driver": (
        facts(driver="595.84", gpu_link="phb", gpu_p2p="verified", gpu_p2p_driver="595.71.05"),
        "T5",
        SAFE,
    ),
    "T5: verified with other cards": (
        facts(gpu_link="phb", gpu_p2p="verified", gpu_cards="3fa9c21b07", gpu_p2p_cards="0000000000"),
        "T5",
        SAFE,
    ),
    "T3: verified, and nothing can be read for a minute": (
        facts(
            gpu_link="node",
            gpu_p2p="verified",
            gpu_driver="unknown",
            gpu_cards="unknown",
            gpu_p2p_driver="595.84",
            gpu_p2p_cards="3fa9c21b07",
        ),
        "T3",
        {**BASE, "NCCL_P2P_LEVEL": "PHB"},
    ),
    "T5: verified under another driver, which another program's label tells": (
        facts(driver="595.84", gpu_link="phb", gpu_p2p="verified", gpu_driver="unknown", gpu_p2p_driver="595.71.05"),
        "T5",
        SAFE,
    ),
    "T6: the chipset refuses": (facts(gpu_link="phb", gpu_p2p="cns"), "T6", SAFE),
    "T6: the driver's registry refuses": (facts(gpu_link="phb", gpu_p2p="dr"), "T6", SAFE),
    "T7: a p2p test hung": (facts(gpu_link="node", gpu_p2p="hang"), "T7", SAFE),
    "T7: a p2p test read wrong values": (facts(gpu_link="node", gpu_p2p="corrupt"), "T7", SAFE),
    "T7: the IOMMU translates": (facts(gpu_link="phb", gpu_p2p="verified", gpu_iommu="translated"), "T7", SAFE),
    "T7: ACS redirects": (facts(gpu_link="phb", gpu_p2p="verified", gpu_acs="redirect"), "T7", SAFE),
    "T8: no labels": (facts(), "T8", SAFE),
    "T8: the link alone": (facts(gpu_link="pix"), "T8", SAFE),
    "T8: no node at all": (None, "T8", SAFE),
    "T8: an NVLink label on a card that has none": (facts(RTX, gpu_link="nvlink", gpu_p2p="verified"), "T8", SAFE),
    "T8: an invalid label": (facts(gpu_link="warp", gpu_p2p="verified"), "T8", SAFE),
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
    "p2pTest": flags(facts(gpu_link="phb", gpu_p2p="verified")).env[1],
    "label": flags(facts(gpu_link="phb", gpu_p2p="cns")).args[0],
    "fallback": flags(None).args[0],
    "user": flags(facts(gpu_link="phb", gpu_p2p="verified"), mode="Safe").args[0],
    "default": flags(None).env[0],
}


@pytest.mark.parametrize(("source", "flag"), SOURCES.items())
def test_each_flag_has_its_source(source: str, flag: Any) -> None:
    assert flag.source == source


def test_there_is_a_case_for_every_source() -> None:
    assert set(SOURCES) == set(get_args(Source))


def test_safe_mode_gives_safe_flags_on_any_node() -> None:
    assert effect(flags(facts(gpu_link="pix", gpu_p2p="verified"), mode="Safe")) == SAFE


def test_fast_mode_trusts_the_driver_as_the_users_choice() -> None:
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


def with_variable(known: NodeFacts | None, name: str, value: str) -> FlagSet:
    return derive(known, InterconnectSpec.model_validate({"env": [{"name": name, "value": value}]}), {})


OFF = {"0x1": P2P_DISABLE, " 01": P2P_DISABLE, "LOC": "NCCL_P2P_LEVEL", "0": "NCCL_P2P_LEVEL", "00": "NCCL_P2P_LEVEL"}


@pytest.mark.parametrize(("value", "name"), OFF.items())
def test_p2p_disabled_by_any_variable_is_disabled_completely(value: str, name: str) -> None:
    seen = effect(with_variable(facts(gpu_link="pix", gpu_p2p="verified"), name, value))
    assert SAFE.items() <= seen.items()


@pytest.mark.parametrize("value", ["0", "", "true", "11", "-1"])
@pytest.mark.parametrize("verdict", ["hang", "corrupt", "granted", "cns", "unknown"])
def test_p2p_that_the_user_switches_on_is_contradicted_and_custom_all_reduce_stays_off(
    value: str, verdict: str
) -> None:
    made = with_variable(facts(gpu_link="phb", gpu_p2p=verdict), P2P_DISABLE, value)
    assert effect(made) == {**SAFE, P2P_DISABLE: value}
    assert [conflict.reason for conflict in made.conflicts] == ["PeerToPeerForced"]
    assert f"gpu-p2p={verdict}" in made.conflicts[0].message
    assert "remove it, or fix the host" in made.conflicts[0].message


def test_another_peer_kernel_cannot_be_had_without_p2p() -> None:
    made = with_variable(facts(gpu_link="phb", gpu_p2p="hang"), "VLLM_ALLREDUCE_USE_FLASHINFER", "1")
    assert effect(made) == SAFE
    assert [conflict.reason for conflict in made.conflicts] == ["PeerKernelWithoutP2p"]
    assert (
        with_variable(facts(gpu_link="phb", gpu_p2p="verified"), "VLLM_ALLREDUCE_USE_FLASHINFER", "1").conflicts == ()
    )


@pytest.mark.parametrize("value", ["LL128", "ll128", "LL,LL128", "^LL", "^Simple", "allreduce:^LL"])
def test_nccl_is_never_made_to_take_ll128(value: str) -> None:
    """A list that begins with `^` forces what it does not name (NVIDIA/nccl v2.30.7, src/graph/tuning.cc)."""
    made = with_variable(facts(gpu_link="phb", gpu_p2p="verified"), "NCCL_PROTO", value)
    assert "NCCL_PROTO" not in effect(made)
    assert [conflict.reason for conflict in made.conflicts] == ["UnsafeNcclVariable"]
    assert value in made.conflicts[0].message


def test_the_named_profile_adds_its_four_variables_and_calls_them_unproven() -> None:
    made = flags(facts(gpu_link="phb", gpu_p2p="verified"), ncclProfile="PcieLowLatency")
    assert PCIE_LOW_LATENCY.items() <= effect(made).items()
    assert all("unproven" in v.reason for v in made.env if v.name in PCIE_LOW_LATENCY)


@pytest.mark.parametrize("name", ALLOCATOR)
def test_expandable_segments_are_removed_with_custom_all_reduce(name: str) -> None:
    env = {name: "max_split_size_mb:512, expandable_segments : True"}
    made = flags(facts(gpu_link="phb", gpu_p2p="verified"), env=env)
    assert made.unset == (name,)
    assert [conflict.reason for conflict in made.conflicts] == ["ExpandableSegments"]
    assert made.conflicts[0].message.startswith(f"{name} with expandable_segments")
    assert flags(facts(gpu_link="phb", gpu_p2p="hang"), env=env).unset == ()


def test_an_allocator_set_under_two_names_is_removed_under_both() -> None:
    env = dict.fromkeys(ALLOCATOR, "expandable_segments:True")
    assert flags(facts(gpu_link="phb", gpu_p2p="verified"), env=env).unset == ALLOCATOR
    env[ALLOCATOR[0]] = "expandable_segments:False"
    assert flags(facts(gpu_link="phb", gpu_p2p="verified"), env=env).unset == ALLOCATOR[1:]


BOUND = {"--numa-bind": "", "--numa-bind-nodes 0 1": ""}


def test_an_engine_is_bound_to_the_nodes_of_its_gpus_where_they_are_known() -> None:
    near = facts(gpu_link="sys", gpu_p2p="granted", gpu_numa_nodes="0-1")
    made = flags(near)

    assert effect(made) == SAFE | BOUND
    assert {one.source for one in made.args if "numa" in one.value} == {"label"}
    assert effect(flags(near, numaBinding="CpusAndMemory")) == SAFE | BOUND
    assert effect(flags(near, numaBinding="Disabled")) == SAFE
    assert effect(flags(None)) == SAFE, "nothing is known of the node"


@pytest.mark.parametrize("value", ["unknown", "0", "0-1-2", "-1-0", "0-1\n", "zero-one", "0-99999"])
def test_a_label_that_does_not_say_where_gpus_are_binds_nothing_and_is_reported(value: str) -> None:
    known = facts(gpu_link="phb", gpu_p2p="hang", gpu_numa_nodes=value)
    made = flags(known, numaBinding="CpusAndMemory")

    assert effect(made) == SAFE
    assert flags(known).conflicts == (), "without memory binding this is not worth a conflict"
    assert [conflict.reason for conflict in made.conflicts] == ["NumaUnknown"]
    assert any(repr(value) in warning for warning in known.warnings) == (value != "unknown")


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
    assert FlagSet.parse_text(made.to_text()) == made


BAD_ANNOTATIONS = {
    "not JSON": "{",
    "a list": "[]",
    "a number": "1",
    "no row": '{"args": [], "env": []}',
    "an argument without a value": '{"row": "T1", "args": [{}], "env": []}',
}


@pytest.mark.parametrize("text", BAD_ANNOTATIONS.values(), ids=BAD_ANNOTATIONS.keys())
def test_a_bad_annotation_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        FlagSet.parse_text(text)


def test_an_unknown_source_of_a_newer_operator_is_accepted() -> None:
    text = '{"row": "T1", "args": [{"value": "-x", "source": "magic", "reason": ""}], "env": []}'
    assert FlagSet.parse_text(text).args[0].source == "magic"


def test_the_same_effect_for_another_reason_is_the_same() -> None:
    one, other = flags(facts(gpu_link="phb", gpu_p2p="hang")), flags(None)
    assert one != other
    assert one.same_effect(other)
    assert not one.same_effect(flags(facts(gpu_link="phb", gpu_p2p="verified")))


P2P_ON = {"name": P2P_DISABLE, "value": "0"}
VARIABLES: tuple[tuple[dict[str, str], ...], ...] = (
    (),
    ({"name": P2P_DISABLE, "value": "1"},),
    ({"name": P2P_DISABLE, "value": "0x1"},),
    (P2P_ON,),
    ({"name": "NCCL_P2P_LEVEL", "value": "LOC"},),
    (P2P_ON, {"name": "NCCL_P2P_LEVEL", "value": "0"}),
    ({"name": "NCCL_SHM_DISABLE", "value": "1"},),
    ({"name": "NCCL_PROTO", "value": "LL,LL128"},),
    ({"name": "NCCL_PROTO", "value": "ll128"},),
    ({"name": "NCCL_PROTO", "value": "^Simple"},),
    ({"name": "VLLM_ALLREDUCE_USE_FLASHINFER", "value": "1"},),
    ({"name": "NCCL_DEBUG", "value": "INFO"},),
)
MODES, SWITCHES, PROFILES = ("Auto", "Safe", "Fast"), ("Auto", "Enabled", "Disabled"), ("None", "PcieLowLatency")
BINDINGS = ("Cpus", "CpusAndMemory", "Disabled")
"""Each override gets one in turn, because nothing else depends on it."""
OVERRIDES = [
    InterconnectSpec.model_validate(
        {
            "mode": mode,
            "customAllReduce": switch,
            "ncclProfile": profile,
            "env": env,
            "numaBinding": BINDINGS[(number + number // len(VARIABLES)) % len(BINDINGS)],
        }
    )
    for number, (mode, switch, profile, env) in enumerate(product(MODES, SWITCHES, PROFILES, VARIABLES))
]
ENGINE_ENVS: tuple[dict[str, str], ...] = (
    {},
    {ALLOCATOR[0]: "expandable_segments:True"},
    {ALLOCATOR[1]: "max_split_size_mb:64"},
    {ALLOCATOR[1]: "expandable_segments:True"},
)
SLOW_PEER, SLOW_P2P = VariantTimes(peer=90, nccl=40, nccl_p2p_off=80), VariantTimes(peer=90, nccl=80, nccl_p2p_off=40)


def every_node() -> Iterator[NodeFacts]:
    """Every combination of the labels' values. Facts that only one row looks at vary only for that row."""
    for link, p2p, iommu, acs in product(LINKS, P2P_VERDICTS, VOCABULARY["gpu-iommu"], VOCABULARY["gpu-acs"]):
        known = NodeFacts("n", link=link, p2p=p2p, iommu=iommu, acs=acs)
        yield known
        if p2p == "verified":
            yield replace(known, driver="595.84", tested_driver="595.71.05")
            yield replace(known, cards="3fa9c21b07", tested_cards="0000000000")
            yield replace(known, pcie_gigabytes_per_second=3.9)
            yield replace(known, variant_times=SLOW_PEER)
            yield replace(known, variant_times=SLOW_P2P)
        if link == "nvlink":
            yield replace(known, product=RTX)
        if link == "sys":
            yield replace(known, numa_nodes=(0, 1))


NODES = (None, *every_node())


@pytest.mark.parametrize("mode", ["Auto", "Safe", "Fast"])
def test_every_set_is_consistent(mode: str) -> None:
    """Every node with every override. Each override gets one of the engine's environments in turn."""
    overrides = [spec for spec in OVERRIDES if spec.mode == mode]
    assert overrides
    for known in NODES:
        for number, spec in enumerate(overrides):
            env = ENGINE_ENVS[number % len(ENGINE_ENVS)]
            made = derive(known, spec, env)
            must_be_consistent(made, env)
            must_be_safe_where_nothing_is_proved(made, known, spec)


def must_be_consistent(made: FlagSet, env: dict[str, str]) -> None:
    seen = effect(made)
    if p2p_is_off(seen):
        assert seen[P2P_DISABLE] == "1"
        assert DISABLE_CUSTOM_ALL_REDUCE in seen
        assert all(seen[name] == "0" for name in OTHER_PEER_KERNELS)
    assert "NCCL_SHM_DISABLE" not in seen
    assert seen.get("NCCL_PROTO", "LL") in ("LL", "Simple")
    if DISABLE_CUSTOM_ALL_REDUCE not in seen:
        assert all(name in made.unset for name, value in env.items() if "expandable_segments:True" in value)
    assert ("--numa-bind" in seen) == any(name.startswith("--numa-bind-nodes ") for name in seen)


def must_be_safe_where_nothing_is_proved(made: FlagSet, known: NodeFacts | None, spec: InterconnectSpec) -> None:
    """Unless the user enabled peer-to-peer explicitly, which then is a conflict."""
    if known and is_proved(known, spec.mode):
        return
    if p2p_is_off(effect(made)):
        return
    assert spec.custom_all_reduce == "Enabled" or P2P_ON in [v.model_dump() for v in spec.env]
    if known:
        assert {"CustomAllReduceForced", "PeerToPeerForced"} & {conflict.reason for conflict in made.conflicts}


def is_proved(known: NodeFacts, mode: str) -> bool:
    """As docs/topology.md puts it, independently of the table."""
    forbidden = known.iommu == "translated" or known.acs == "redirect" or (known.link == "nvlink" and known.product)
    tested = known.p2p == "verified" and not known.staleness
    believed = mode == "Fast" and known.p2p in ("verified", "granted")
    return known.link != "unknown" and not forbidden and (tested or believed)


any_time = st.none() | st.sampled_from([10.0, 40.0, 90.0])
any_node = st.builds(
    replace, st.sampled_from(NODES[1:]), variant_times=st.none() | st.builds(VariantTimes, any_time, any_time, any_time)
)


@given(any_node, st.sampled_from(OVERRIDES), st.sampled_from(ENGINE_ENVS))
def test_every_set_is_consistent_whatever_was_measured(
    known: NodeFacts, spec: InterconnectSpec, env: dict[str, str]
) -> None:
    made = derive(known, spec, env)
    must_be_consistent(made, env)
    assert FlagSet.parse_text(made.to_text()) == replace(made, conflicts=())


@given(st.sampled_from(NODES), st.sampled_from(OVERRIDES))
def test_flags_are_derived_the_same_way_every_time(known: NodeFacts | None, spec: InterconnectSpec) -> None:
    assert derive(known, spec, {}).to_text() == derive(known, spec, {}).to_text()


def test_the_documentation_shows_the_table_as_it_is() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "topology.md").read_text()
    assert table() in page
