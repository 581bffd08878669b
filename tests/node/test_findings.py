"""Findings about machines whose cards are not simply two equal ones under one CPU."""

from collections.abc import Sequence
from itertools import combinations

import pytest

from flash_node.assessment import assess
from flash_node.dump import GpuDump, NodeDump, NumaDump, OtherCardDump, PairDump
from flash_node.topology.text import text_of
from flash_node.topology.view import view_of

GIB = 1 << 30
LEVELS = {"pix": 10, "pxb": 20, "phb": 30, "node": 40, "sys": 50}
PRO, SERVER, GAMING = ("NVIDIA RTX PRO 6000 Workstation", 96), ("NVIDIA RTX PRO 6000 Server", 96), ("GeForce", 24)

Card = tuple[str, int]


def card(index: int, kind: Card = PRO, **changes: object) -> GpuDump:
    name, memory = kind
    read = {"uuid": f"GPU-{index}", "bus": f"0000:{index + 1:02x}:00.0", "numa_node": 0, "iommu": "off"}
    return GpuDump.model_validate({"index": index, "name": name, "memory": memory * GIB, **read, **changes})


def node(gpus: Sequence[GpuDump], links: dict[tuple[int, int], str] | None = None, **changes: object) -> NodeDump:
    """Pairs that are not in `links` have the link `node`. The driver grants all of them."""
    level = {pair: LEVELS[link] for pair, link in (links or {}).items()}
    indices = [gpu.index for gpu in gpus]
    pairs = [
        PairDump(first=a, second=b, ancestor=level.get((a, b), 40), p2p=(0,) * 4) for a, b in combinations(indices, 2)
    ]
    return NodeDump.model_validate(
        {"node": "n", "taken_at": "", "driver": "595.1", "gpus": gpus, "pairs": pairs, **changes}
    )


def numa(sockets: dict[int, tuple[int, ...]]) -> tuple[NumaDump, ...]:
    return tuple(NumaDump(index=index, sockets=packages) for index, packages in sockets.items())


def in_nodes(*nodes: int | None) -> list[GpuDump]:
    return [card(index, numa_node=place) for index, place in enumerate(nodes)]


def said(dump: NodeDump) -> str:
    """All findings of flash-topology, joined on one line."""
    found = assess(dump)
    text = " ".join(text_of(view_of(dump)).split())
    messages = (*found.warnings, *found.notes)
    assert all(message in text for message in messages)
    return "\n".join(messages)


def test_two_equal_cards_in_one_numa_node_give_no_findings() -> None:
    assert said(node(in_nodes(0, 0))) == ""


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_more_than_two_cards_are_reported_with_what_an_engine_may_get(count: int) -> None:
    found = said(node([card(index) for index in range(count)], {(1, 2): "pix"}))
    assert f"{count} GPUs, and an engine gets any two" in found
    assert "promises neither their link nor that they are alike" in found
    assert "such a node is not tested, so its engines keep the safe flags" in found
    assert "best for an engine: GPUs 1 and 2 (link `pix`, peer-to-peer granted)" in found
    assert "NVreg_ExcludedGpus" in found


@pytest.mark.parametrize(
    ("kinds", "links", "best", "spare"),
    [
        ([GAMING, PRO, PRO, GAMING], {(0, 3): "pix", (1, 2): "sys"}, "GPUs 1 and 2 (link `sys`", "GPUs 0 and 3"),
        ([PRO, SERVER, PRO], {(0, 1): "pix"}, "GPUs 0 and 2 (link `node`", "GPU 1"),
        ([PRO] * 3, {(0, 1): "phb", (0, 2): "sys", (1, 2): "sys"}, "GPUs 0 and 1 (link `phb`", "GPU 2"),
        ([PRO] * 4, {(0, 1): "pix", (2, 3): "pix"}, "GPUs 0 and 1; 2 and 3 (link `pix`", "all but two"),
        ([PRO] * 8, dict.fromkeys(combinations(range(4), 2), "pix"), "2 more pairs (link `pix`", "all but two"),
    ],
    ids=["two that have room", "two of one model", "one is far", "two good pairs", "many good pairs"],
)  # fmt: skip
def test_the_best_pair_is_named_with_the_cards_to_exclude(
    kinds: list[Card], links: dict[tuple[int, int], str], best: str, spare: str
) -> None:
    found = said(node([card(index, kind) for index, kind in enumerate(kinds)], links))
    assert f"best for an engine: {best}" in found or f"{best}" in found
    assert f"exclude {spare} by UUID" in found


def test_a_card_that_is_far_from_every_other_is_named() -> None:
    cards = [card(index) for index in range(3)]
    assert "GPU 2 is far (`sys`)" in said(node(cards, {(0, 2): "sys", (1, 2): "sys"}))
    assert "is far" not in said(node(cards, {(0, 1): "sys", (0, 2): "sys", (1, 2): "sys"}))


def test_a_pair_that_the_driver_refuses_or_that_is_sliced_is_not_the_best() -> None:
    cards = [card(0), card(1), card(2, mig=True), card(3)]
    dump = node(cards, {(0, 1): "pix", (0, 2): "pix"})
    pairs = [p.model_copy(update={"p2p": (5,) * 4}) if (p.first, p.second) == (0, 1) else p for p in dump.pairs]
    assert "GPUs 0 and 3; 1 and 3 (link `node`" in said(dump.model_copy(update={"pairs": tuple(pairs)}))


def test_without_a_pair_that_fits_none_is_recommended() -> None:
    found = said(node([card(0), card(1, SERVER), card(2, GAMING)]))
    assert "no two of the GPUs are alike with room for the model" in found
    assert "best for an engine" not in found


@pytest.mark.parametrize(
    ("kinds", "alike"),
    [
        ([PRO, PRO], True),
        ([PRO, SERVER], False),
        ([PRO, (PRO[0], 48)], False),
        ([PRO, (PRO[0], 94)], True),
        ([PRO, PRO, GAMING], False),
    ],
)
def test_unlike_cards_are_reported(kinds: list[Card], *, alike: bool) -> None:
    found = said(node([card(index, kind) for index, kind in enumerate(kinds)]))
    assert ("the GPUs are not alike" not in found) is alike


def test_a_lost_card_is_not_called_unlike() -> None:
    assert "not alike" not in said(node([card(0), GpuDump(index=1)]))


def test_a_card_that_cannot_be_read_is_named_with_what_to_do() -> None:
    found = said(node([card(0), GpuDump(index=1)]))
    assert "GPU 1 cannot be read: see dmesg for Xid, and reset the card" in found
    assert "until then the node keeps its labels" in found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pcie_generation": 3, "pcie_lanes": 4}, "PCIe links are not alike (GPU 0: gen5-x16, GPU 1: gen3-x4)"),
        ({"pcie_generation": 5, "pcie_lanes": 8}, "PCIe links are not alike (GPU 0: gen5-x16, GPU 1: gen5-x8)"),
        ({"power_limit": 450000}, "power limits are not alike (GPU 0: 600 W, GPU 1: 450 W)"),
        ({}, ""),
        ({"pcie_generation": None, "power_limit": None}, ""),
    ],
)
def test_cards_of_one_model_in_unlike_slots_or_with_unlike_limits_are_reported(
    changes: dict[str, int | None], expected: str
) -> None:
    usual = {"pcie_generation": 5, "pcie_lanes": 16, "power_limit": 600000}
    found = said(node([card(0, PRO, **usual), card(1, PRO, **{**usual, **changes})]))
    assert expected in found
    assert bool(found) is bool(expected)


def test_unlike_cards_are_not_also_reported_for_unlike_slots() -> None:
    """A card of an earlier generation has a slower link in any slot."""
    found = said(
        node([card(0, PRO, pcie_generation=5, pcie_lanes=16), card(1, GAMING, pcie_generation=4, pcie_lanes=16)])
    )
    assert "PCIe links" not in found


def test_a_virtual_machines_hidden_iommu_is_reported() -> None:
    guests = [card(index, PRO, virtualization=1, iommu=None) for index in range(2)]
    assert "GPUs 0 and 1 are passed through to this virtual machine" in said(node(guests))


def test_a_small_bar_does_not_matter_over_nvlink() -> None:
    dump = node([card(index, PRO, bar1=1 << 20) for index in range(2)])
    assert "enable resizable BAR" in said(dump)
    linked = dump.pairs[0].model_copy(update={"nvlink": 0})
    assert "BAR" not in said(dump.model_copy(update={"pairs": (linked,)}))


def test_nvlink_between_cards_that_have_none_is_a_conflict() -> None:
    """Without the product's label too: the dump has the cards' names."""
    dump = node([card(index) for index in range(2)])
    linked = dump.model_copy(update={"pairs": (dump.pairs[0].model_copy(update={"nvlink": 0}),)})
    assert view_of(linked, "verified").flags.row == "T8"
    others = linked.model_copy(update={"gpus": tuple(card(index, ("NVIDIA H100", 96)) for index in range(2))})
    assert view_of(others, "verified").flags.row == "T1"


def test_no_p2p_test_is_announced_if_the_driver_refuses() -> None:
    dump = node([card(index) for index in range(3)])
    pairs = tuple(pair.model_copy(update={"p2p": (2,) * 4}) for pair in dump.pairs)
    found = said(dump.model_copy(update={"pairs": pairs}))
    assert "to leave engines one pair, exclude" in found
    assert "to have a pair tested" not in found


@pytest.mark.parametrize(
    ("sizes", "which", "remedy"),
    [
        ((48, 48), "GPUs 0 and 1 have 48 GiB", "keep its pods off this node (spec.placement.nodeSelector)"),
        ((96, 72), "GPU 1 has 72 GiB", "keep its pods off this node"),
        ((96, 96, 24), "GPU 2 has 24 GiB", "exclude it"),
        ((24, 96, 96, 4), "GPUs 0 and 3 have 4 or 24 GiB", "exclude them"),
    ],
)
def test_cards_with_too_little_memory_are_reported(sizes: tuple[int, ...], which: str, remedy: str) -> None:
    found = said(node([card(index, (f"card of {size}", size)) for index, size in enumerate(sizes)]))
    assert which in found
    assert f"ends with OutOfMemory; {remedy}" in found


@pytest.mark.parametrize("size", [75, 80, 96, 141, 192])
def test_cards_with_enough_memory_are_not_reported(size: int) -> None:
    assert "OutOfMemory" not in said(node([card(index, ("card", size)) for index in range(2)]))


SPLIT = "parts of one CPU (NPS2, NPS4, SNC)"


@pytest.mark.parametrize(
    ("places", "sockets", "expected"),
    [
        ((0, 1), {0: (0,), 1: (0,)}, f"the NUMA nodes 0 and 1, which are {SPLIT}"),
        ((1, 3), {0: (0,), 1: (0,), 2: (0,), 3: (0,)}, f"the NUMA nodes 1 and 3, which are {SPLIT}"),
        ((0, 1), {0: (0,), 1: (0,), 2: (1,), 3: (1,)}, f"the NUMA nodes 0 and 1, which are {SPLIT}"),
        ((0, 2), {0: (0,), 1: (0,), 2: (1,), 3: (1,)}, "NUMA node 0 in CPU socket 0; NUMA node 2 in CPU socket 1"),
        ((0, 1), {0: (0,), 1: (1,)}, "NUMA node 0 in CPU socket 0; NUMA node 1 in CPU socket 1"),
        ((0, 1), {0: (0,), 1: (0,), 2: ()}, f"which are {SPLIT}"),
        ((0, 1), {}, "of different CPUs, or parts of one (NPS2, NPS4, SNC); this was not read"),
        ((0, 0), {0: (0, 1)}, "NUMA node 0 spans 2 CPUs (as with NPS0"),
    ],
    ids=["NPS2", "NPS4", "SNC-2, one CPU", "SNC-2, two CPUs", "two CPUs", "CXL beside", "an older dump", "NPS0"],
)  # fmt: skip
def test_numa_nodes_are_called_cpus_only_where_they_are(
    places: tuple[int, ...], sockets: dict[int, tuple[int, ...]], expected: str
) -> None:
    dump = node(in_nodes(*places), {(0, 1): "sys"}, numa=numa(sockets))
    assert expected in said(dump)
    assert "under two CPUs" not in text_of(view_of(dump, "verified"))


def test_a_numa_node_without_cpus_binds_nothing() -> None:
    dump = node(in_nodes(2, 2), numa=numa({0: (0,), 2: ()}))
    assert assess(dump).labels["gpu-numa-nodes"] == "unknown"
    assert "GPU 0 is in NUMA node 2, which has memory but no CPUs" in said(dump)
    assert "--numa-bind" not in text_of(view_of(dump))


def test_an_unknown_numa_node_is_reported() -> None:
    found = said(node(in_nodes(None, None)))
    assert "the NUMA node of GPUs 0 and 1 is unknown" in found
    assert "bound to no CPUs" in found


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        ("vfio-pci", "vfio-pci is bound to it, for a virtual machine"),
        ("nouveau", "blacklist nouveau"),
        ("nvidia", "excluded (NVreg_ExcludedGpus) or lost"),
        ("pci-stub", "another kernel driver is bound to it"),
        (None, "no kernel driver is bound to it"),
    ],
)
def test_a_card_that_nvml_does_not_list_is_named_with_its_driver(driver: str | None, expected: str) -> None:
    found = said(node([card(0)], other_cards=(OtherCardDump(bus="0000:41:00.0", driver=driver),)))
    assert "only one GPU was found" in found
    assert "0000:41:00.0 is not among them: " in found
    assert expected in found


def test_a_truncated_dump_reports_the_missing_pairs_and_proves_nothing() -> None:
    whole = node([card(index) for index in range(3)], {(0, 1): "pix"})
    cut = whole.model_copy(update={"pairs": whole.pairs[:1]})
    found = said(cut)
    assert "the dump has no entry for GPUs 0 and 2 and 1 more pairs: it is truncated" in found
    assert (assess(cut).labels["gpu-link"], assess(cut).labels["gpu-p2p"]) == ("unknown", "unknown")


@pytest.mark.parametrize(
    ("changes", "label"),
    [({"power_limit": 4294967295}, "gpu-power-w"), ({"pcie_generation": 5, "pcie_lanes": 12}, "gpu-pcie")],
)
def test_an_unknown_label_value_is_unknown(changes: dict[str, int], label: str) -> None:
    assert assess(node([card(0, PRO, **changes), card(1, PRO, **changes)])).labels[label] == "unknown"
