"""Derives a flag set: from the node's row of the table, then the user's overrides, then what makes it consistent.

Peer-to-peer, custom all-reduce and FlashInfer's all-reduce are separate switches in separate programs, and only some
combinations are safe: with NCCL_P2P_DISABLE=1 alone the engine starts and then hangs in vLLM's own kernel at exactly
two ranks (vllm-project/vllm#51513, local-inference-lab/rtx6kpro#15).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flash_contracts.flags.choice import Choice, choose
from flash_contracts.flags.flag_set import Conflict, FlagArg, FlagEnv, FlagSet, Source
from flash_contracts.flags.interconnect import Interconnect
from flash_contracts.flags.nccl_variables import P2P_DISABLE, P2P_LEVEL, p2p_is_off, why_unsafe
from flash_contracts.flags.table import Row, classify, impossible_link
from flash_contracts.node_facts import NodeFacts
from flash_contracts.variable_aliases import ALLOCATOR, has_expandable_segments

DISABLE_CUSTOM_ALL_REDUCE = "--disable-custom-all-reduce"

OTHER_PEER_KERNELS = (
    "VLLM_ALLREDUCE_USE_FLASHINFER",
    "VLLM_ALLREDUCE_USE_FLASHINFER_PCIE_IPC",
    "VLLM_ALLREDUCE_USE_SYMM_MEM",
)
"""Switches of vLLM's other peer-to-peer kernels. Each spins without a timeout if peer writes are lost."""

PCIE_LOW_LATENCY = {
    "NCCL_PROTO": "LL",
    "NCCL_ALGO": "Ring",
    "NCCL_MIN_NCHANNELS": "8",
    "NCCL_NTHREADS": "512",
}
"""Variables of the first published deployment of this model. Nobody has measured their effect in isolation."""

SAFE_MODE = "spec.interconnect.mode is Safe"
STILL_USES_IT = "peer-to-peer is off; this kernel would still use it"


@dataclass
class _FlagSetBuilder:
    """A flag set under construction. Flags are kept by name, so that a later one replaces an earlier one."""

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
    """The flags for an engine on this node. `facts` is None for an unknown node, which gives the safe flags.

    `engine_env` is the user's environment for the engine, which is not part of the flags.
    """
    row, seen = classify(facts, trust_driver=interconnect.mode == "Fast")
    flags = _FlagSetBuilder(row)
    flags.var("NCCL_IB_DISABLE", "1", "default", "one node: there is no InfiniBand to probe")
    if interconnect.mode == "Safe":
        _safe(flags, "user", SAFE_MODE)
    elif row.p2p:
        choice = choose(row, facts.variant_times if facts and facts.p2p == "verified" else None)
        _peer_to_peer(flags, choice, _source_of(facts, interconnect), f"{row.name}: {seen}")
    else:
        _safe(flags, _source_of(facts, interconnect), f"{row.name}: {seen}; {row.why}")
    _overrides(flags, facts, interconnect)
    if facts and interconnect.numa_binding != "Disabled":
        _bind(flags, facts, interconnect.numa_binding)
    _close(flags, interconnect, engine_env)
    if facts and impossible_link(facts):
        flags.conflict(
            "ImpossibleLink",
            f"label gpu-link=nvlink on {facts.product}, which has no NVLink: correct the label; safe flags until then",
        )
    return flags.finished()


def _source_of(facts: NodeFacts | None, interconnect: Interconnect) -> Source:
    if facts is None:
        return "fallback"
    if facts.p2p in ("verified", "hang", "corrupt"):
        return "p2pTest"
    if facts.p2p == "granted" and interconnect.mode == "Fast":
        return "user"
    return "label"


def _safe(flags: _FlagSetBuilder, source: Source, reason: str) -> None:
    """The safe flags, without peer-to-peer: 5 to 30 % slower than the best set, but they never hang on a lost write."""
    flags.arg(DISABLE_CUSTOM_ALL_REDUCE, source, reason)
    flags.var(P2P_DISABLE, "1", source, reason)
    for name in OTHER_PEER_KERNELS:
        flags.var(name, "0", source, STILL_USES_IT)


def _peer_to_peer(flags: _FlagSetBuilder, choice: Choice, source: Source, reason: str) -> None:
    full_reason = f"{reason}; {choice.why}"
    if not choice.p2p:
        _safe(flags, source, full_reason)
        return
    if not choice.custom_all_reduce:
        flags.arg(DISABLE_CUSTOM_ALL_REDUCE, source, full_reason)
    if flags.row.p2p_level:
        flags.var(P2P_LEVEL, flags.row.p2p_level, source, f"{reason}; {flags.row.why}")


def _bind(flags: _FlagSetBuilder, facts: NodeFacts, binding: str) -> None:
    """Bind to the nodes by name, because vLLM's own detection aborts the start if it finds none (utils/numa_utils.py).

    vLLM binds only CPUs where the container may not bind memory, so the arguments are the same for both bindings.
    """
    if not facts.numa_nodes:
        if binding == "CpusAndMemory":
            flags.conflict(
                "NumaUnknown",
                "spec.interconnect.numaBinding is CpusAndMemory, and label gpu-numa-nodes does not say where the GPUs "
                "are: nothing is bound; set the label to a NUMA node for each GPU, such as 0-1, or numaBinding to Cpus",
            )
        return
    nodes = [str(node) for node in facts.numa_nodes]
    reason = f"spec.interconnect.numaBinding is {binding}; gpu-numa-nodes={'-'.join(nodes)}"
    flags.arg("--numa-bind", "label", reason)
    flags.arg(f"--numa-bind-nodes {' '.join(nodes)}", "label", reason)


def _overrides(flags: _FlagSetBuilder, facts: NodeFacts | None, interconnect: Interconnect) -> None:
    """Apply the user's overrides. They win, with a conflict in status if a verdict contradicts them."""
    if interconnect.nccl_profile == "PcieLowLatency":
        for name, value in PCIE_LOW_LATENCY.items():
            flags.var(name, value, "user", "spec.interconnect.ncclProfile is PcieLowLatency; unproven")
    if interconnect.custom_all_reduce == "Disabled":
        flags.arg(DISABLE_CUSTOM_ALL_REDUCE, "user", "spec.interconnect.customAllReduce is Disabled")
    if interconnect.custom_all_reduce == "Enabled":
        _force_custom_all_reduce(flags, facts)
    for variable in interconnect.env:
        unsafe = why_unsafe(variable.name, variable.value)
        if unsafe:
            flags.conflict("UnsafeNcclVariable", f"{variable.name}={variable.value} was left out: {unsafe}")
        else:
            flags.var(variable.name, variable.value, "user", "spec.interconnect.env")
    if not flags.p2p_is_off and P2P_DISABLE in flags.env:
        _contradict(
            flags, facts, "PeerToPeerForced", f"env sets {P2P_DISABLE}={flags.env[P2P_DISABLE].value}", "remove it"
        )


def _force_custom_all_reduce(flags: _FlagSetBuilder, facts: NodeFacts | None) -> None:
    """Enable custom all-reduce and peer-to-peer, which it needs."""
    flags.args.pop(DISABLE_CUSTOM_ALL_REDUCE, None)
    for name in (P2P_DISABLE, *OTHER_PEER_KERNELS):
        flags.env.pop(name, None)
    _contradict(flags, facts, "CustomAllReduceForced", "customAllReduce is Enabled", "set it to Auto")


def _contradict(flags: _FlagSetBuilder, facts: NodeFacts | None, reason: str, override: str, remedy: str) -> None:
    """Add a conflict if the user enables peer-to-peer on a known node whose row has none."""
    if facts is None or flags.row.p2p:
        return
    flags.conflict(
        reason,
        f"spec.interconnect.{override}, but {flags.row.why} (row {flags.row.name}, gpu-p2p={facts.p2p}): "
        f"the engine may hang or return wrong tokens; {remedy}, or fix the host",
    )


def _close(flags: _FlagSetBuilder, interconnect: Interconnect, engine_env: Mapping[str, str]) -> None:
    """Make the set consistent: peer-to-peer is off everywhere or nowhere, and nothing breaks custom all-reduce."""
    if flags.p2p_is_off:
        _close_without_p2p(flags, interconnect)
    elif DISABLE_CUSTOM_ALL_REDUCE not in flags.args:
        _without_expandable_segments(flags, engine_env)


def _without_expandable_segments(flags: _FlagSetBuilder, engine_env: Mapping[str, str]) -> None:
    """Remove the allocator's variable under all of its names: PyTorch falls back from one to the next."""
    for name in ALLOCATOR:
        if not has_expandable_segments(engine_env.get(name, "")):
            continue
        flags.unset.append(name)
        flags.conflict(
            "ExpandableSegments",
            f"{name} with expandable_segments was removed: custom all-reduce crashes with it "
            "(vllm-project/vllm#47751); drop it, or set spec.interconnect.customAllReduce to Disabled",
        )


def _close_without_p2p(flags: _FlagSetBuilder, interconnect: Interconnect) -> None:
    """Switch off everything that uses peer-to-peer, whichever of NCCL's two variables the user set, in any spelling."""
    switch = next(flags.env[name] for name in (P2P_DISABLE, P2P_LEVEL) if name in flags.env)
    if interconnect.custom_all_reduce == "Enabled":
        flags.conflict(
            "CustomAllReduceWithoutP2p",
            "spec.interconnect.env switches peer-to-peer off, so custom all-reduce stays off: remove one of them",
        )
    flags.var(P2P_DISABLE, "1", switch.source, switch.reason)
    flags.args.setdefault(DISABLE_CUSTOM_ALL_REDUCE, FlagArg(DISABLE_CUSTOM_ALL_REDUCE, switch.source, STILL_USES_IT))
    for name in OTHER_PEER_KERNELS:
        wanted = flags.env.get(name)
        if wanted and wanted.value != "0":
            message = f"{name}={wanted.value} was left out: {STILL_USES_IT}; remove it from spec.interconnect.env"
            flags.conflict("PeerKernelWithoutP2p", message)
        flags.var(name, "0", switch.source, STILL_USES_IT)
