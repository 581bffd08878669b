"""What a start that does not go on looks like: a hang of the GPUs' link, work, or neither. Pure.

    S1   a hang before the weights: NCCL's first collective got stuck
    S2   a hang after them: vLLM's own all-reduce got stuck, in autotuning or while graphs are captured
    S9   no hang: kernels are compiled, which can take many minutes in which nothing is said

Where NVML tells of the GPUs it decides alone. A GPU that waits for a peer's write which never arrives spins: it is
fully busy, draws little power, moves nothing over PCIe, and no memory is taken or given back. A process that waits
for it may burn a core or none. Without NVML only an engine that does nothing at all counts as hung: it says nothing,
uses no CPU, reads and writes nothing, and no process of it waits for a disk.

The figures come from reports of such hangs: 85 to 98 W of 300 W, and 85 to 140 W of 600 W, at 100 %; 370 to 500 MiB
where NCCL hung (local-inference-lab/rtx6kpro#15 and #21, vllm-project/vllm#51513).
"""

from dataclasses import dataclass
from typing import Any, Literal

from flash_engine.launcher.progress import Milestone

SPINNING_PERCENT = 95.0
IDLE_POWER_SHARE = 0.4
QUIET_PCIE_MIB_PER_SECOND = 10.0
STILL_MEMORY_MIB = 64.0
EMPTY_MEMORY_MIB = 1024.0
"""Less is a context and NCCL's buffers; more are weights."""

IDLE_CPU_SHARE = 0.02
"""Of one core: what a sleeping engine's timers use, and far less than any work."""
CPU_TICKS_SECONDS = 0.05
"""The kernel counts in hundredths of a second."""
IDLE_IO_BYTES = 1 << 20
"""Over the whole time: a checkpoint that loads more slowly takes a year."""

GAP_SECONDS = 10.0
"""A launcher that was not scheduled for so long knows nothing of that time: its node slept, or its container froze."""


@dataclass(frozen=True)
class Gpu:
    """One GPU at one moment."""

    memory_mib: float
    busy_percent: float
    watts: float
    limit_watts: float
    pcie_mib_per_second: float | None
    """Both directions; None where the GPU does not tell."""

    @property
    def spins(self) -> bool:
        return (
            self.busy_percent >= SPINNING_PERCENT
            and self.watts < IDLE_POWER_SHARE * self.limit_watts
            and (self.pcie_mib_per_second or 0.0) < QUIET_PCIE_MIB_PER_SECOND
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "memoryMib": round(self.memory_mib),
            "busyPercent": round(self.busy_percent),
            "watts": round(self.watts),
            "limitWatts": round(self.limit_watts),
            "pcieMibPerSecond": None if self.pcie_mib_per_second is None else round(self.pcie_mib_per_second, 1),
        }


@dataclass(frozen=True)
class Vitals:
    """An engine at one moment, seen from outside. Times are seconds of one clock."""

    at: float
    said_at: float
    """When it last said something."""
    cpu_seconds: float
    """Used so far by all its processes."""
    io_bytes: int
    """Read and written so far by all its processes."""
    waits_for_disk: bool = False
    compilers: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] | None = None
    """None where nothing is known of them, or nothing recent."""

    @property
    def spins(self) -> bool:
        return bool(self.gpus) and all(gpu.spins for gpu in self.gpus or ())


@dataclass(frozen=True)
class Finding:
    """A signature with its sentence."""

    signature: Literal["S1", "S2", "S9"]
    detail: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class StallWindow:
    """Since when nothing has moved: the first look and the latest of a time in which all looks were alike."""

    since: Vitals
    latest: Vitals
    compiled_at: float | None = None
    """When compilers were last seen."""

    @classmethod
    def begin(cls, vitals: Vitals) -> "StallWindow":
        return cls(vitals, vitals).after(vitals)

    def after(self, vitals: Vitals) -> "StallWindow":
        """With the next look, which ends the stillness where anything has moved."""
        compiled_at = vitals.at if vitals.compilers else self.compiled_at
        kept = vitals.at - self.latest.at <= GAP_SECONDS and _is_still(self.since, vitals)
        return StallWindow(self.since if kept else vitals, vitals, compiled_at)

    @property
    def seconds(self) -> float:
        """How long it has said nothing and moved nothing."""
        return self.latest.at - self.since.at

    def compiled_within(self, seconds: float) -> bool:
        return self.compiled_at is not None and self.latest.at - self.compiled_at < seconds


def _is_still(first: Vitals, now: Vitals) -> bool:
    """Nothing was said, nothing is compiled; then the GPUs decide, and where nothing is known of them the processes."""
    if now.said_at > first.at or now.compilers or (now.gpus is None) != (first.gpus is None):
        return False
    if now.gpus is None:
        return _processes_are_still(first, now)
    return first.spins and now.spins and _memory_is_still(first.gpus or (), now.gpus)


def _processes_are_still(first: Vitals, now: Vitals) -> bool:
    idle_cpu = IDLE_CPU_SHARE * (now.at - first.at) + CPU_TICKS_SECONDS
    return (
        not now.waits_for_disk
        and abs(now.cpu_seconds - first.cpu_seconds) <= idle_cpu
        and abs(now.io_bytes - first.io_bytes) <= IDLE_IO_BYTES
    )


def _memory_is_still(first: tuple[Gpu, ...], now: tuple[Gpu, ...]) -> bool:
    return len(first) == len(now) and all(
        abs(gpu.memory_mib - before.memory_mib) <= STILL_MEMORY_MIB for before, gpu in zip(first, now, strict=True)
    )


def signature(stillness: StallWindow, milestone: Milestone, hang_seconds: float) -> Finding | None:
    """What a start that has not ended shows; None while there is nothing to say of it.

    vitals over `hang_seconds`                        ->  signature
    ready, or anything was said                           none
    compilers run                                         S9
    GPUs known: all spin, memory stands still             S1 below 1 GiB of memory, else S2
    GPUs known: anything else                             none: the gate's startup timeout judges it
    GPUs unknown: no CPU, no I/O                          S1 before the weights, else S2
    GPUs unknown: CPU or I/O                              none, likewise
    """
    latest = stillness.latest
    if milestone is Milestone.READY:
        return None
    if latest.compilers and latest.at - latest.said_at >= hang_seconds:
        told = f"nothing was said for {latest.at - latest.said_at:.0f} s, while {', '.join(latest.compilers)} compiles"
        return Finding("S9", told, evidence(stillness, milestone))
    if stillness.seconds < hang_seconds:
        return None
    return _spin(stillness, milestone) if latest.gpus is not None else _silence(stillness, milestone)


def _spin(stillness: StallWindow, milestone: Milestone) -> Finding:
    gpus = stillness.latest.gpus or ()
    watts = " and ".join(f"{gpu.watts:.0f} of {gpu.limit_watts:.0f} W" for gpu in gpus)
    memory = " and ".join(f"{gpu.memory_mib:.0f}" for gpu in gpus)
    told = (
        f"{milestone.words} nothing was said for {stillness.seconds:.0f} s, and the GPUs spin: fully busy at {watts}, "
        f"with {memory} MiB of memory that stand still"
    )
    empty = all(gpu.memory_mib < EMPTY_MEMORY_MIB for gpu in gpus)
    return Finding("S1" if empty else "S2", told, evidence(stillness, milestone))


def _silence(stillness: StallWindow, milestone: Milestone) -> Finding:
    told = (
        f"{milestone.words} nothing was said for {stillness.seconds:.0f} s, and no process used its CPU or its disk; "
        "of the GPUs nothing is known"
    )
    return Finding("S1" if milestone < Milestone.WEIGHTS else "S2", told, evidence(stillness, milestone))


def evidence(stillness: StallWindow, milestone: Milestone) -> dict[str, Any]:
    """The figures behind a finding, small enough for a status."""
    first, latest = stillness.since, stillness.latest
    return {
        "stillSeconds": round(stillness.seconds, 1),
        "milestone": milestone.name,
        "cpuSeconds": round(latest.cpu_seconds - first.cpu_seconds, 2),
        "compilers": list(latest.compilers),
        "gpus": None if latest.gpus is None else [gpu.to_json() for gpu in latest.gpus],
    }
