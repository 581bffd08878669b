"""The row of a node, the user's wishes laid over it, and the closure that keeps the whole consistent.

Peer-to-peer, custom all-reduce and FlashInfer's all-reduce are separate switches in separate programs, and only
sets of them are safe: NCCL_P2P_DISABLE=1 alone boots and then hangs in vLLM's own kernel at exactly two ranks
(vllm-project/vllm#51513, local-inference-lab/rtx6kpro#15).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flash_contracts.flags.choice import Choice, choose
from flash_contracts.flags.flag_set import Conflict, FlagArg, FlagEnv, FlagSet, Source
from flash_contracts.flags.interconnect import Interconnect
from flash_contracts.flags.nccl_variables import P2P_DISABLE, P2P_LEVEL, p2p_is_off, why_unsafe
from flash_contracts.flags.table import Row, classify, impossible_link
from flash_contracts.node_facts import NodeFacts

DISABLE_CUSTOM_ALL_REDUCE = "--disable-custom-all-reduce"
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"

OTHER_PEER_KERNELS = (
    "VLLM_ALLREDUCE_USE_FLASHINFER",
    "VLLM_ALLREDUCE_USE_FLASHINFER_PCIE_IPC",
    "VLLM_ALLREDUCE_USE_SYMM_MEM",
)
"""Switches of vLLM's further peer-to-peer kernels; each spins without a timeout when peer writes get lost."""

PCIE_LOW_LATENCY = {
    "NCCL_PROTO": "LL",
    "NCCL_ALGO": "Ring",
    "NCCL_MIN_NCHANNELS": "8",
    "NCCL_NTHREADS": "512",
}
"""The variables that the first published deployment of this model used. Nothing isolates what they do."""

SAFE_MODE = "spec.interconnect.mode is Safe"
STILL_USES_IT = "peer-to-peer is off; this kernel would still use it"


@dataclass
class _Draft:
    """A set under construction, by name, so that a later wish replaces an earlier default."""

    row: Row
    args: dict[str, FlagArg] = field(default_factory=dict)
    env: dict[str, FlagEnv] = field(default_factory=dict)
    unset: list[str] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)

    def arg(self, value: str, source: Source, reason: str) -> None:
        self.args[value] = FlagArg(value, source, reason)

    def var(self, name: str, value: str, source: str, reason: str) -> None:
        self.env[name] = FlagEnv(name, value, source, reason)

    def conflict(self, reason: str, message: str) -> None:
        self.conflicts.append(Conflict(reason, message))

    @property
    def p2p_is_off(self) -> bool:
        return p2p_is_off({name: variable.value for name, variable in self.env.items()})

    def finished(self) -> FlagSet:
        env = tuple(self.env[name] for name in sorted(self.env))
        return FlagSet(self.row.name, tuple(self.args.values()), env, tuple(self.unset), tuple(self.conflicts))


def derive(facts: NodeFacts | None, interconnect: Interconnect, engine_env: Mapping[str, str]) -> FlagSet:
    """The flags for an engine on this node; `None` stands for a node of which nothing is known (the safe set).

    `engine_env` is the environment that the user gives the engine; it is looked at, and never copied.
    """
    row, seen = classify(facts, trust_driver=interconnect.mode == "Fast")
    draft = _Draft(row)
    draft.var("NCCL_IB_DISABLE", "1", "default", "one node: there is no InfiniBand to probe")
    if interconnect.mode == "Safe":
        _safe(draft, "user", SAFE_MODE)
    elif row.p2p:
        choice = choose(row, facts.variant_times if facts and facts.p2p == "verified" else None)
        _peer_to_peer(draft, choice, _source_of(facts, interconnect), f"{row.name}: {seen}")
    else:
        _safe(draft, _source_of(facts, interconnect), f"{row.name}: {seen}; {row.why}")
    _overrides(draft, facts, interconnect)
    if facts and interconnect.numa_binding != "Disabled":
        _bind(draft, facts, interconnect.numa_binding)
    _close(draft, interconnect, engine_env)
    if facts and impossible_link(facts):
        draft.conflict(
            "ImpossibleLink",
            f"label gpu-link=nvlink on {facts.product}, which has no NVLink: correct the label; safe flags until then",
        )
    return draft.finished()


def _source_of(facts: NodeFacts | None, interconnect: Interconnect) -> Source:
    if facts is None:
        return "fallback"
    if facts.p2p in ("verified", "hang", "corrupt"):
        return "probe"
    if facts.p2p == "granted" and interconnect.mode == "Fast":
        return "user"
    return "label"


def _safe(draft: _Draft, source: Source, reason: str) -> None:
    """Nothing peer-to-peer at all: costs 5 to 30 % against the best set, and never hangs on a lost peer write."""
    draft.arg(DISABLE_CUSTOM_ALL_REDUCE, source, reason)
    draft.var(P2P_DISABLE, "1", source, reason)
    for name in OTHER_PEER_KERNELS:
        draft.var(name, "0", source, STILL_USES_IT)


def _peer_to_peer(draft: _Draft, choice: Choice, source: Source, reason: str) -> None:
    told = f"{reason}; {choice.why}"
    if not choice.p2p:
        _safe(draft, source, told)
        return
    if not choice.custom_all_reduce:
        draft.arg(DISABLE_CUSTOM_ALL_REDUCE, source, told)
    if draft.row.p2p_level:
        draft.var(P2P_LEVEL, draft.row.p2p_level, source, f"{reason}; {draft.row.why}")


def _bind(draft: _Draft, facts: NodeFacts, binding: str) -> None:
    """Named nodes, for vLLM's own look for them ends the start wherever it finds none (its utils/numa_utils.py).

    It binds CPUs alone where the container may not bind memory, so that the arguments are the same for both.
    """
    if not facts.numa_nodes:
        if binding == "CpusAndMemory":
            draft.conflict(
                "NumaUnknown",
                "spec.interconnect.numaBinding is CpusAndMemory, and label gpu-numa-nodes does not say where the GPUs "
                "are: nothing is bound; set the label to a NUMA node for each GPU, such as 0-1, or numaBinding to Cpus",
            )
        return
    nodes = [str(node) for node in facts.numa_nodes]
    reason = f"spec.interconnect.numaBinding is {binding}; gpu-numa-nodes={'-'.join(nodes)}"
    draft.arg("--numa-bind", "label", reason)
    draft.arg(f"--numa-bind-nodes {' '.join(nodes)}", "label", reason)


def _overrides(draft: _Draft, facts: NodeFacts | None, interconnect: Interconnect) -> None:
    """What the user says wins, and is contradicted aloud where a verdict speaks against it."""
    if interconnect.nccl_profile == "PcieLowLatency":
        for name, value in PCIE_LOW_LATENCY.items():
            draft.var(name, value, "user", "spec.interconnect.ncclProfile is PcieLowLatency; unproven")
    if interconnect.custom_all_reduce == "Disabled":
        draft.arg(DISABLE_CUSTOM_ALL_REDUCE, "user", "spec.interconnect.customAllReduce is Disabled")
    if interconnect.custom_all_reduce == "Enabled":
        _force_custom_all_reduce(draft, facts)
    for variable in interconnect.env:
        unsafe = why_unsafe(variable.name, variable.value)
        if unsafe:
            draft.conflict("UnsafeNcclVariable", f"{variable.name}={variable.value} was left out: {unsafe}")
        else:
            draft.var(variable.name, variable.value, "user", "spec.interconnect.env")
    if not draft.p2p_is_off and P2P_DISABLE in draft.env:
        _contradict(
            draft, facts, "PeerToPeerForced", f"env sets {P2P_DISABLE}={draft.env[P2P_DISABLE].value}", "remove it"
        )


def _force_custom_all_reduce(draft: _Draft, facts: NodeFacts | None) -> None:
    """Custom all-reduce without peer-to-peer is no set at all, so forcing the one brings the other with it."""
    draft.args.pop(DISABLE_CUSTOM_ALL_REDUCE, None)
    for name in (P2P_DISABLE, *OTHER_PEER_KERNELS):
        draft.env.pop(name, None)
    _contradict(draft, facts, "CustomAllReduceForced", "customAllReduce is Enabled", "set it to Auto")


def _contradict(draft: _Draft, facts: NodeFacts | None, reason: str, wish: str, remedy: str) -> None:
    """A wish for peer-to-peer where the table has none; of a node that nobody knows nothing speaks against it."""
    if facts is None or draft.row.p2p:
        return
    draft.conflict(
        reason,
        f"spec.interconnect.{wish}, but {draft.row.why} (row {draft.row.name}, gpu-p2p={facts.p2p}): "
        f"the engine may hang or return wrong tokens; {remedy}, or mend the host",
    )


def _close(draft: _Draft, interconnect: Interconnect, engine_env: Mapping[str, str]) -> None:
    """Make the set whole: peer-to-peer off means off everywhere, and custom all-reduce on rules out what breaks it."""
    if draft.p2p_is_off:
        _close_without_p2p(draft, interconnect)
    elif DISABLE_CUSTOM_ALL_REDUCE not in draft.args and "expandable_segments:True" in engine_env.get(ALLOCATOR, ""):
        draft.unset.append(ALLOCATOR)
        draft.conflict(
            "ExpandableSegments",
            f"{ALLOCATOR} with expandable_segments was removed: custom all-reduce crashes with it "
            "(vllm-project/vllm#47751); drop it, or set spec.interconnect.customAllReduce to Disabled",
        )


def _close_without_p2p(draft: _Draft, interconnect: Interconnect) -> None:
    """However the user has spelt it, or by which of NCCL's two variables."""
    said = next(draft.env[name] for name in (P2P_DISABLE, P2P_LEVEL) if name in draft.env)
    if interconnect.custom_all_reduce == "Enabled":
        draft.conflict(
            "CustomAllReduceWithoutP2p",
            "spec.interconnect.env switches peer-to-peer off, so custom all-reduce stays off: remove one of them",
        )
    draft.var(P2P_DISABLE, "1", said.source, said.reason)
    draft.args.setdefault(DISABLE_CUSTOM_ALL_REDUCE, FlagArg(DISABLE_CUSTOM_ALL_REDUCE, said.source, STILL_USES_IT))
    for name in OTHER_PEER_KERNELS:
        wanted = draft.env.get(name)
        if wanted and wanted.value != "0":
            told = f"{name}={wanted.value} was left out: {STILL_USES_IT}; remove it from spec.interconnect.env"
            draft.conflict("PeerKernelWithoutP2p", told)
        draft.var(name, "0", said.source, STILL_USES_IT)
