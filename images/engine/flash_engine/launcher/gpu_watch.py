"""Reads the GPUs through NVML in its own thread, because a call into a faulty GPU's driver may never return."""

import threading
import time
from collections.abc import Callable
from typing import Any

from flash_engine.launcher.hang_detection import GpuReading
from flash_engine.log import Logger
from flash_engine.nvml import load_pynvml

log = Logger("flash.launcher")

READ_SECONDS = 1.0
ASKED_SECONDS = 5.0
STALE_SECONDS = 10.0
"""Older readings are ignored, and the GPUs' state is unknown."""

MIB = 1 << 20


class GpuWatch:
    """The latest readings of this container's GPUs. Reads them only while `latest` is being called."""

    def __init__(self, load: Callable[[], Any] | None = None) -> None:
        self._load = load or load_pynvml
        self._latest: tuple[float, tuple[GpuReading, ...]] | None = None
        self._asked_at: float | None = None

    def latest(self, at: float) -> tuple[GpuReading, ...] | None:
        """The last reading, or None if there is none or it is too old. `at` is a value of time.monotonic()."""
        if self._asked_at is None:
            threading.Thread(target=self._watch, name="gpu-watch", daemon=True).start()
        self._asked_at = at
        latest = self._latest
        return None if latest is None or at - latest[0] > STALE_SECONDS else latest[1]

    def _watch(self) -> None:
        try:
            nvml = self._load()
            nvml.nvmlInit()
        except Exception as error:  # noqa: BLE001 - NVML's exceptions are known only after it is loaded
            consequence = "hangs are detected only by the engine's processes"
            log.warning("GPUs are not watched", error=_what(error), consequence=consequence)
            return
        problem: str | None = None
        while True:
            if time.monotonic() - (self._asked_at or 0.0) < ASKED_SECONDS:
                problem = self._read(nvml, problem)
            time.sleep(READ_SECONDS)

    def _read(self, nvml: Any, known: str | None) -> str | None:
        """Read the GPUs. Returns what went wrong, if anything; the next reading may succeed."""
        try:
            self._latest = (time.monotonic(), read_gpus(nvml))
        except Exception as error:  # noqa: BLE001 - as above
            if _what(error) != known:
                log.warning("GPUs cannot be read", error=_what(error))
            return _what(error)
        return None


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def read_gpus(nvml: Any) -> tuple[GpuReading, ...]:
    """Raises NVMLError, for example for a MIG slice, which has no power or load figures."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return tuple(_read_gpu(nvml, handle) for handle in handles)


def _read_gpu(nvml: Any, handle: Any) -> GpuReading:
    return GpuReading(
        # Version 1 counts the driver's own memory as used, up to 600 MiB.
        memory_mib=nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).used / MIB,
        busy_percent=float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        watts=nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        limit_watts=nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        pcie_mib_per_second=_pcie_mib_per_second(nvml, handle),
    )


def _pcie_mib_per_second(nvml: Any, handle: Any) -> float | None:
    try:
        sent = nvml.nvmlDeviceGetPcieThroughput(handle, nvml.NVML_PCIE_UTIL_TX_BYTES)
        received = nvml.nvmlDeviceGetPcieThroughput(handle, nvml.NVML_PCIE_UTIL_RX_BYTES)
    except nvml.NVMLError:
        return None
    return float(sent + received) / 1024
