"""Findings about a node's cards that no label shows. Pure.

Warnings become events on the Node, because somebody can act on them. Notes only explain.
"""

from collections.abc import Iterable, Sequence

from flash_contracts.node_facts import LINKS
from flash_node.dump import PAIR, GpuDump, NodeDump, PairDump
from flash_node.interpretation import GUEST, link_of, p2p_of, pcie_of, virtualization_of

GIB = 1 << 30

ROOM_GIB = 74
"""A smaller card has no room for its half of the weights: 73.4 of 145.6 GiB (docs/checkpoint.md)."""

SAME_MEMORY = 0.05
"""Cards of one model differ by less, for example by their ECC setting."""

MOST_NAMED = 4
"""At most this many pairs are named in a message."""

EXCLUDE = "by UUID (option NVreg_ExcludedGpus of the kernel module nvidia), or move the rest to another node"


def warnings(dump: NodeDump) -> Iterable[str]:
    """Warnings, each with its cards and the remedy."""
    yield from dump.faults
    if dump.is_empty:
        yield "no GPU was found"
    elif len(dump.gpus) < PAIR:
        yield "only one GPU was found: an engine needs two"
    yield from _cut(dump)
    yield from _lost(dump.gpus)
    yield from _many(dump)
    yield from _unlike(dump.gpus)
    yield from _small(dump)
    if len({gpu.name for gpu in dump.gpus}) == 1:
        yield from _uneven("PCIe links", map(pcie_of, dump.gpus), dump.gpus, "use slots with as many lanes")
        yield from _uneven(
            "power limits", map(_limit, dump.gpus), dump.gpus, "set one limit (nvidia-smi --power-limit)"
        )
    for gpu in dump.gpus:
        yield from _of_card(gpu, dump)
    yield from _without_cpus(dump)


def notes(dump: NodeDump) -> Iterable[str]:
    """Notes that explain the picture."""
    guests = [gpu.index for gpu in dump.gpus if virtualization_of(gpu) == GUEST]
    if guests:
        yield (
            f"{_cards(guests)} {_verb(guests, 'is', 'are')} passed through to this virtual machine: whether its host's "
            "IOMMU translates cannot be seen here, so only the test tells whether peer-to-peer works"
        )
    yield from _numa_nodes(dump)
    for node in dump.numa:
        if node.sockets and len(node.sockets) > 1 and node.index in {gpu.numa_node for gpu in dump.gpus}:
            yield (
                f"NUMA node {node.index} spans {len(node.sockets)} CPUs (as with NPS0, or with NUMA off in the "
                "firmware), so a link `node` may cross from one CPU to another"
            )
    for card in dump.other_cards:
        yield f"the NVIDIA card at {card.bus} is not among them: {_WHY_UNSEEN.get(card.driver, _OTHER_DRIVER)}"


_OTHER_DRIVER = "another kernel driver is bound to it"
_WHY_UNSEEN = {
    "vfio-pci": "vfio-pci is bound to it, for a virtual machine; bind it to the driver nvidia to let engines use it",
    "nvidia": "NVML does not list it, because it is excluded (NVreg_ExcludedGpus) or lost; see dmesg for Xid",
    "nouveau": "the driver nouveau is bound to it; blacklist nouveau, and load the driver nvidia",
    None: "no kernel driver is bound to it; dmesg shows why nvidia is not",
}


def _cut(dump: NodeDump) -> Iterable[str]:
    absent = dump.absent_pairs
    if absent:
        pair, more = absent[0], f" and {len(absent) - 1} more pairs" if len(absent) > 1 else ""
        yield f"the dump has no entry for GPUs {pair.first} and {pair.second}{more}: it is truncated; save it again"


def _lost(gpus: Sequence[GpuDump]) -> Iterable[str]:
    lost = [gpu.index for gpu in gpus if not (gpu.uuid or gpu.bus or gpu.name)]
    if lost:
        yield (
            f"{_cards(lost)} cannot be read: see dmesg for Xid, and reset the card (nvidia-smi --gpu-reset) or the "
            "host; until then the node keeps its labels"
        )


def _many(dump: NodeDump) -> Iterable[str]:
    """What an engine gets on a node with more than two cards."""
    if len(dump.gpus) <= PAIR:
        return
    yield (
        f"{len(dump.gpus)} GPUs, and an engine gets any two: the device plugin prefers close ones, but promises "
        "neither their link nor that they are alike; such a node is not tested, so its engines keep the safe flags"
    )
    closest = _closest_pairs(dump)
    if not closest:
        yield f"no two of the GPUs are alike with room for the model: use two of one model with {ROOM_GIB} GiB or more"
        return
    kept = _members(closest[0]) if len(closest) == 1 else ()
    spare = _cards([gpu.index for gpu in dump.gpus if gpu.index not in kept]) if kept else "all but two"
    granted = p2p_of(closest[0], dump.gpus) == "granted"
    purpose = "have a pair tested and used" if granted else "leave engines one pair"
    yield f"{_about(closest, dump)}; to {purpose}, exclude {spare} {EXCLUDE}"


def _closest_pairs(dump: NodeDump) -> list[PairDump]:
    """The best pairs of like cards with room for the model: those that the driver grants, then by their link."""
    gpus = {gpu.index: gpu for gpu in dump.gpus}
    fitting = [pair for pair in dump.every_pair if _fit(gpus[pair.first], gpus[pair.second])]
    ranks = [(p2p_of(pair, dump.gpus) != "granted", LINKS.index(link_of(pair))) for pair in fitting]
    return [pair for pair, rank in zip(fitting, ranks, strict=True) if rank == min(ranks)]


def _fit(one: GpuDump, other: GpuDump) -> bool:
    return _alike(one, other) and not any(gpu.mig or _is_small(gpu) for gpu in (one, other))


def _about(closest: Sequence[PairDump], dump: NodeDump) -> str:
    kind = f"link `{link_of(closest[0])}`, peer-to-peer {p2p_of(closest[0], dump.gpus)}"
    if len(closest) == len(dump.every_pair):
        return f"all pairs of GPUs are alike ({kind})"
    named = "; ".join(f"{pair.first} and {pair.second}" for pair in closest[:MOST_NAMED])
    more = f"; {len(closest) - MOST_NAMED} more pairs" if len(closest) > MOST_NAMED else ""
    far = [gpu.index for gpu in dump.gpus if _is_far(gpu, dump)]
    has_far = far and link_of(closest[0]) != "sys"
    apart = f", and {_cards(far)} {_verb(far, 'is', 'are')} far (`sys`) from every other" if has_far else ""
    return f"best for an engine: GPUs {named}{more} ({kind}){apart}"


def _is_far(gpu: GpuDump, dump: NodeDump) -> bool:
    return all(link_of(pair) == "sys" for pair in dump.every_pair if gpu.index in _members(pair))


def _members(pair: PairDump) -> tuple[int, int]:
    return pair.first, pair.second


def _unlike(gpus: Sequence[GpuDump]) -> Iterable[str]:
    groups: list[list[GpuDump]] = []
    for gpu in gpus:
        group = next((group for group in groups if _alike(group[0], gpu)), None)
        if group is None:
            groups.append([gpu])
        else:
            group.append(gpu)
    if len(groups) > 1:
        which = "; ".join(f"{_cards([gpu.index for gpu in group])}: {_model(group[0])}" for group in groups)
        yield (
            f"the GPUs are not alike ({which}): an engine halves the model between two, so of an unlike pair it gets "
            "twice the memory of the smaller and the speed of the slower one; use two of one model"
        )


def _alike(one: GpuDump, other: GpuDump) -> bool:
    """Whether two cards are of one model with equal memory, as far as that is known: a lost card has neither."""
    if one.name and other.name and one.name != other.name:
        return False
    return not (one.memory and other.memory) or abs(one.memory - other.memory) <= SAME_MEMORY * max(
        one.memory, other.memory
    )


def _model(gpu: GpuDump) -> str:
    memory = f"{gpu.memory / GIB:.0f} GiB" if gpu.memory else ""
    return ", ".join(filter(None, (gpu.name, memory))) or "unknown"


def _uneven(what: str, values: Iterable[str | None], gpus: Sequence[GpuDump], remedy: str) -> Iterable[str]:
    """A warning about a value that should be the same for all cards of one model."""
    known = [(gpu.index, value) for gpu, value in zip(gpus, values, strict=True) if value]
    if len({value for _, value in known}) > 1:
        which = ", ".join(f"GPU {index}: {value}" for index, value in known)
        yield f"{what} are not alike ({which}): the slower card sets the pace; {remedy}"


def _limit(gpu: GpuDump) -> str | None:
    return f"{gpu.power_limit / 1000:.0f} W" if gpu.power_limit else None


def _small(dump: NodeDump) -> Iterable[str]:
    small = [gpu for gpu in dump.gpus if _is_small(gpu)]
    if not small:
        return
    sizes = sorted({f"{(gpu.memory or 0) / GIB:.0f}" for gpu in small}, key=int)
    enough_others = len(dump.gpus) - len(small) >= PAIR
    remedy = f"exclude {_verb(small, 'it', 'them')}" if enough_others else "keep its pods off this node"
    yield (
        f"{_cards([gpu.index for gpu in small])} {_verb(small, 'has', 'have')} {' or '.join(sizes)} GiB of memory: the "
        f"weights of DeepSeek-V4-Flash (W4A16-FP8) take {ROOM_GIB} GiB on each of two cards, so an engine that gets "
        f"less ends with OutOfMemory; {remedy}{'' if enough_others else ' (spec.placement.nodeSelector)'}"
    )


def _is_small(gpu: GpuDump) -> bool:
    return gpu.memory is not None and gpu.memory < ROOM_GIB * GIB


def _of_card(gpu: GpuDump, dump: NodeDump) -> Iterable[str]:
    name = f"GPU {gpu.index}"
    if gpu.mig:
        yield f"{name} has MIG enabled, and MIG slices have no peer-to-peer: disable MIG to use a pair of whole cards"
    # The BAR1 of a vGPU has a fixed size.
    kind = virtualization_of(gpu)
    uses_bar = any(link_of(pair) != "nvlink" for pair in dump.every_pair if gpu.index in _members(pair))
    if gpu.bar1 is not None and gpu.memory is not None and gpu.bar1 < gpu.memory and kind != "vgpu" and uses_bar:
        remedy = "resizable BAR in the host's firmware and for the guest" if kind == GUEST else "resizable BAR"
        yield f"{name} has a BAR1 of {gpu.bar1 >> 20} MiB for {gpu.memory >> 20} MiB of memory: enable {remedy}"
    if gpu.pcie_lanes and gpu.pcie_lanes_now and gpu.pcie_lanes_now < gpu.pcie_lanes:
        yield f"{name} runs on {gpu.pcie_lanes_now} of {gpu.pcie_lanes} PCIe lanes: check its slot, riser and BIOS"


def _without_cpus(dump: NodeDump) -> Iterable[str]:
    empty = {node.index for node in dump.numa if node.sockets == ()}
    for gpu in dump.gpus:
        if gpu.numa_node in empty:
            yield (
                f"GPU {gpu.index} is in NUMA node {gpu.numa_node}, which has memory but no CPUs (as CXL memory): "
                "engines are bound to no CPUs here; look at the slot's locality in the firmware"
            )


def _numa_nodes(dump: NodeDump) -> Iterable[str]:
    """Notes about NUMA nodes. Different nodes are not always different CPUs: one can be split into two or four."""
    unknown = [gpu.index for gpu in dump.gpus if gpu.numa_node is None and gpu.bus]
    if unknown:
        yield (
            f"the NUMA node of {_cards(unknown)} is unknown, because the firmware does not report it or /sys is "
            "not visible: engines are bound to no CPUs"
        )
    nodes = sorted({gpu.numa_node for gpu in dump.gpus if gpu.numa_node is not None})
    if len(nodes) < PAIR:
        return
    which = f"the GPUs are in the NUMA nodes {_list(nodes)}"
    sockets = {node: dump.sockets_of(node) for node in nodes}
    if None in sockets.values():
        yield (
            f"{which}: of different CPUs, or parts of one (NPS2, NPS4, SNC); this was not read, but `lscpu` on "
            "the node shows it"
        )
    elif len(set().union(*(found or () for found in sockets.values()))) == 1:
        yield f"{which}, which are parts of one CPU (NPS2, NPS4, SNC): a link `sys` stays within that CPU"
    else:
        where = "; ".join(f"NUMA node {node} in CPU socket {_list(found or ())}" for node, found in sockets.items())
        yield f"{which}: {where}"


def _cards(indices: Sequence[int]) -> str:
    return f"GPU {indices[0]}" if len(indices) == 1 else f"GPUs {_list(indices)}"


def _list(numbers: Sequence[int]) -> str:
    *first, last = [str(number) for number in numbers] or ["none"]
    return f"{', '.join(first)} and {last}" if first else last


def _verb(of: Sequence[object], one: str, many: str) -> str:
    return one if len(of) == 1 else many
