"""Detects an engine that hangs on the GPUs' link at its start, as opposed to working or compiling. Pure.

    S1   hang before the weights: NCCL's first collective is stuck
    S2   hang after the weights: vLLM's own all-reduce is stuck, in autotuning or while graphs are captured
    S9   no hang: kernels are being compiled, which can take many minutes without output

A GPU that waits for a peer's write that never arrives spins: it is fully busy, draws little power, transfers nothing
over PCIe, and its memory does not change. A process that waits for it may use a full core or none.

    GPUs, by NVML                        the engine hangs if
    all spin                             nothing else changes
    one spins, the others are idle: it   its processes do no I/O, and use at most one core per spinning GPU, which
    waits for a peer that never comes    waiting for it may take. If they use CPU at all, twice the time must pass: the
                                         peer's process might compute
    all are idle, or some works          never during a start; after a start, if its processes do nothing at all
    unknown                              its processes do nothing at all: no CPU, no I/O, and none waits for a disk

After a start, the gate reports that a request got no token. The engine is then checked in the same way, because it may
be compiling kernels for its first request.

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
"""A context and NCCL's buffers take less; weights take more."""

IDLE_PERCENT = 5.0
"""An idle GPU may show a trace of load."""

WAITING_CORES = 1.1
"""A process that polls for a GPU uses a core, and the kernel's accounting is not exact."""

WAITING_FACTOR = 2.0
"""How many times as long the silence must last if the engine uses CPU while a GPU is idle."""

CONFIRM_SECONDS = 20.0
"""How long an engine must do nothing after the gate reported a hang. The gate has already waited for it."""

PROCESSES_WORK = "its processes use CPU or disk"

IDLE_CPU_SHARE = 0.02
"""Share of one core that a sleeping engine's timers use; any work uses far more."""
CPU_TICKS_SECONDS = 0.05
"""The resolution of the kernel's accounting."""
IDLE_IO_BYTES = 1 << 20
"""For the whole window. A checkpoint that loads more slowly would take a year."""

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

    @property
    def is_idle(self) -> bool:
        """It computes nothing, and nothing is copied to it."""
        return (
            self.busy_percent <= IDLE_PERCENT
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
    """Used by all its processes so far."""
    io_bytes: int
    """Read and written by all its processes so far."""
    waits_for_disk: bool = False
    compilers: tuple[str, ...] = ()
    gpus: tuple[GpuReading, ...] | None = None
    """None if there is no recent reading."""

    @property
    def spinning(self) -> int:
        """How many GPUs spin."""
        return sum(gpu.spins for gpu in self.gpus or ())

    @property
    def all_spin(self) -> bool:
        return bool(self.gpus) and self.spinning == len(self.gpus or ())


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

    @classmethod
    def begin(cls, vitals: Vitals) -> "StallWindow":
        return cls(vitals, vitals)

    def after(self, vitals: Vitals) -> "StallWindow":
        """The window including the next reading; any activity starts a new window."""
        kept = vitals.at - self.latest.at <= GAP_SECONDS and _is_still(self.since, vitals)
        return StallWindow(self.since if kept else vitals, vitals)

    @property
    def seconds(self) -> float:
        """How long there has been no activity."""
        return self.latest.at - self.since.at

    @property
    def uses_cpu(self) -> bool:
        """Whether its processes used more CPU than idle ones, although less than working ones."""
        return not _processes_are_still(self.since, self.latest)

    @property
    def needed_factor(self) -> float:
        """How many times as long as usual the silence must last to count as a hang."""
        mixed = self.latest.gpus is not None and not self.latest.all_spin
        return WAITING_FACTOR if mixed and self.uses_cpu else 1.0


def _is_still(first: Vitals, now: Vitals) -> bool:
    """Whether nothing happened during a start: no output, no compiler, and no work of GPUs or processes."""
    if now.logged_at > first.at or now.compilers or (now.gpus is None) != (first.gpus is None):
        return False
    if now.gpus is None:
        return _processes_are_still(first, now)
    return first.spinning > 0 and now.spinning > 0 and working(first, now) is None


def working(first: Vitals, now: Vitals) -> str | None:
    """What the engine did between two readings, for a message; None if nothing."""
    if now.compilers:
        return f"{', '.join(now.compilers)} compiles"
    if now.gpus is None or first.gpus is None:
        return None if _processes_are_still(first, now) else PROCESSES_WORK
    if any(not (gpu.spins or gpu.is_idle) for gpu in now.gpus):
        return "its GPUs work"
    if not _memory_is_still(first.gpus, now.gpus):
        return "the memory of its GPUs changes"
    one_waits = now.spinning == first.spinning > 0 and _processes_only_wait(first, now)
    both_wait = now.all_spin and first.all_spin
    return None if both_wait or one_waits or _processes_are_still(first, now) else PROCESSES_WORK


def _processes_are_still(first: Vitals, now: Vitals) -> bool:
    return _processes_use_at_most(IDLE_CPU_SHARE, first, now)


def _processes_only_wait(first: Vitals, now: Vitals) -> bool:
    """Whether the processes use at most one polling core per spinning GPU."""
    return _processes_use_at_most(WAITING_CORES * now.spinning + IDLE_CPU_SHARE, first, now)


def _processes_use_at_most(cores: float, first: Vitals, now: Vitals) -> bool:
    used = cores * (now.at - first.at) + CPU_TICKS_SECONDS
    return (
        not now.waits_for_disk
        and abs(now.cpu_seconds - first.cpu_seconds) <= used
        and abs(now.io_bytes - first.io_bytes) <= IDLE_IO_BYTES
    )


def _memory_is_still(first: tuple[GpuReading, ...], now: tuple[GpuReading, ...]) -> bool:
    return len(first) == len(now) and all(
        abs(gpu.memory_mib - before.memory_mib) <= STILL_MEMORY_MIB for before, gpu in zip(first, now, strict=True)
    )


@dataclass(frozen=True)
class ReportedHang:
    """A hang that the gate reported, observed since the report or since the launcher last saw the engine work."""

    since: Vitals
    latest: Vitals
    computing: str | None = None
    """What it was last seen doing."""

    @classmethod
    def begin(cls, vitals: Vitals) -> "ReportedHang":
        return cls(vitals, vitals, working(vitals, vitals))

    def after(self, vitals: Vitals) -> "ReportedHang":
        found = working(self.since, vitals)
        if found or vitals.at - self.latest.at > GAP_SECONDS:
            return ReportedHang(vitals, vitals, found or self.computing)
        return ReportedHang(self.since, vitals, self.computing)

    def is_confirmed(self, hang_seconds: float) -> bool:
        """Whether it has done nothing for long enough."""
        needed = min(hang_seconds, CONFIRM_SECONDS) if hang_seconds else CONFIRM_SECONDS
        return self.latest.at - self.since.at >= needed

    @property
    def evidence(self) -> dict[str, Any]:
        return {**evidence(StallWindow(self.since, self.latest), Milestone.READY), "gpusSpin": self._gpus_spin}

    @property
    def _gpus_spin(self) -> bool:
        """Whether a GPU waits for a peer while none works, which only the links can cause."""
        return self.since.spinning > 0 and self.latest.spinning > 0


def hang_signature(window: StallWindow, milestone: Milestone, hang_seconds: float) -> HangSignature | None:
    """The signature of a start that has not finished; None if it may still be working.

    activity over `hang_seconds`                      ->  signature
    ready, or any output                                  none
    compilers run                                         S9
    GPUs known: all spin, or one does while nothing works S1 below 1 GiB of memory, else S2
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
    if window.seconds < hang_seconds * window.needed_factor:
        return None
    return _spin(window, milestone) if latest.gpus is not None else _silence(window, milestone)


def _spin(window: StallWindow, milestone: Milestone) -> HangSignature:
    gpus = window.latest.gpus or ()
    spin = (
        "the GPUs spin: fully busy at"
        if window.latest.all_spin
        else ("one GPU waits for another that does nothing: " + _loads(gpus) + " busy at")
    )
    watts = " and ".join(f"{gpu.watts:.0f} of {gpu.limit_watts:.0f} W" for gpu in gpus)
    memory = " and ".join(f"{gpu.memory_mib:.0f}" for gpu in gpus)
    message = (
        f"{milestone.description} no output for {window.seconds:.0f} s, and {spin} {watts}, "
        f"with {memory} MiB of unchanging memory"
    )
    empty = all(gpu.memory_mib < EMPTY_MEMORY_MIB for gpu in gpus)
    return HangSignature("S1" if empty else "S2", message, evidence(window, milestone))


def _loads(gpus: tuple[GpuReading, ...]) -> str:
    return " and ".join(f"{gpu.busy_percent:.0f} %" for gpu in gpus)


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
