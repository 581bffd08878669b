"""Detects that an engine's start hangs on the GPUs' link, rather than working or compiling. Pure.

    S1   hang before the weights: NCCL's first collective is stuck
    S2   hang after the weights: vLLM's own all-reduce is stuck, in autotuning or while graphs are captured
    S9   no hang: kernels are being compiled, which can take many minutes without output

If NVML reports the GPUs, it decides alone. A GPU that waits for a peer's write which never arrives spins: it is fully
busy, draws little power, moves nothing over PCIe, and its memory does not change. A process that waits for it may use
a full core or none. Without NVML, an engine counts as hung only if it does nothing at all: no output, no CPU, no I/O,
and no process waiting for a disk.

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
"""Share of one core that a sleeping engine's timers use; far less than any work."""
CPU_TICKS_SECONDS = 0.05
"""The resolution of the kernel's accounting."""
IDLE_IO_BYTES = 1 << 20
"""For the whole window: a checkpoint that loads more slowly would take a year."""

GAP_SECONDS = 10.0
"""A gap between two checks that invalidates the window: the node slept, or the container was frozen."""


@dataclass(frozen=True)
class GpuReading:
    """One GPU at one moment."""

    memory_mib: float
    busy_percent: float
    watts: float
    limit_watts: float
    pcie_mib_per_second: float | None
    """Both directions; None if the GPU does not report it."""

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
    """An engine's activity at one moment, seen from outside. Times are seconds of one clock."""

    at: float
    logged_at: float
    """When it last logged something."""
    cpu_seconds: float
    """Used so far by all its processes."""
    io_bytes: int
    """Read and written so far by all its processes."""
    waits_for_disk: bool = False
    compilers: tuple[str, ...] = ()
    gpus: tuple[GpuReading, ...] | None = None
    """None if there is no recent reading."""

    @property
    def spins(self) -> bool:
        return bool(self.gpus) and all(gpu.spins for gpu in self.gpus or ())


@dataclass(frozen=True)
class HangSignature:
    """A recognised pattern, with a message and the evidence."""

    signature: Literal["S1", "S2", "S9"]
    detail: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class StallWindow:
    """A period without activity: the first and the latest reading."""

    since: Vitals
    latest: Vitals
    compiled_at: float | None = None
    """When compilers were last seen."""

    @classmethod
    def begin(cls, vitals: Vitals) -> "StallWindow":
        return cls(vitals, vitals).after(vitals)

    def after(self, vitals: Vitals) -> "StallWindow":
        """The window including the next reading; any activity starts a new window."""
        compiled_at = vitals.at if vitals.compilers else self.compiled_at
        kept = vitals.at - self.latest.at <= GAP_SECONDS and _is_still(self.since, vitals)
        return StallWindow(self.since if kept else vitals, vitals, compiled_at)

    @property
    def seconds(self) -> float:
        """How long there has been no activity."""
        return self.latest.at - self.since.at

    def compiled_within(self, seconds: float) -> bool:
        return self.compiled_at is not None and self.latest.at - self.compiled_at < seconds


def _is_still(first: Vitals, now: Vitals) -> bool:
    """No output and no compiler; then the GPUs decide, or, if unknown, the processes."""
    if now.logged_at > first.at or now.compilers or (now.gpus is None) != (first.gpus is None):
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


def _memory_is_still(first: tuple[GpuReading, ...], now: tuple[GpuReading, ...]) -> bool:
    return len(first) == len(now) and all(
        abs(gpu.memory_mib - before.memory_mib) <= STILL_MEMORY_MIB for before, gpu in zip(first, now, strict=True)
    )


def hang_signature(window: StallWindow, milestone: Milestone, hang_seconds: float) -> HangSignature | None:
    """The signature of a start that has not finished; None if it may still be working.

    activity over `hang_seconds`                      ->  signature
    ready, or any output                                  none
    compilers run                                         S9
    GPUs known: all spin, memory does not change          S1 below 1 GiB of memory, else S2
    GPUs known: anything else                             none: the gate's startup timeout judges it
    GPUs unknown: no CPU, no I/O                          S1 before the weights, else S2
    GPUs unknown: CPU or I/O                              none: the gate's startup timeout judges it
    """
    latest = window.latest
    if milestone is Milestone.READY:
        return None
    if latest.compilers and latest.at - latest.logged_at >= hang_seconds:
        message = f"no output for {latest.at - latest.logged_at:.0f} s, while {', '.join(latest.compilers)} compiles"
        return HangSignature("S9", message, evidence(window, milestone))
    if window.seconds < hang_seconds:
        return None
    return _spin(window, milestone) if latest.gpus is not None else _silence(window, milestone)


def _spin(window: StallWindow, milestone: Milestone) -> HangSignature:
    gpus = window.latest.gpus or ()
    watts = " and ".join(f"{gpu.watts:.0f} of {gpu.limit_watts:.0f} W" for gpu in gpus)
    memory = " and ".join(f"{gpu.memory_mib:.0f}" for gpu in gpus)
    message = (
        f"{milestone.description} no output for {window.seconds:.0f} s, and the GPUs spin: fully busy at {watts}, "
        f"with {memory} MiB of unchanging memory"
    )
    empty = all(gpu.memory_mib < EMPTY_MEMORY_MIB for gpu in gpus)
    return HangSignature("S1" if empty else "S2", message, evidence(window, milestone))


def _silence(window: StallWindow, milestone: Milestone) -> HangSignature:
    message = (
        f"{milestone.description} no output for {window.seconds:.0f} s, and no process used CPU or disk; "
        "the GPUs' state is unknown"
    )
    return HangSignature("S1" if milestone < Milestone.WEIGHTS else "S2", message, evidence(window, milestone))


def evidence(window: StallWindow, milestone: Milestone) -> dict[str, Any]:
    """The figures behind a signature, small enough for a status."""
    first, latest = window.since, window.latest
    return {
        "stillSeconds": round(window.seconds, 1),
        "milestone": milestone.name,
        "cpuSeconds": round(latest.cpu_seconds - first.cpu_seconds, 2),
        "compilers": list(latest.compilers),
        "gpus": None if latest.gpus is None else [gpu.to_json() for gpu in latest.gpus],
    }
