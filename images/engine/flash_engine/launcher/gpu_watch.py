"""Reading the GPUs through NVML, in a thread of its own: a call into a sick GPU's driver may never return."""

import threading
import time
from collections.abc import Callable
from typing import Any

from flash_engine.launcher.hang_detection import Gpu
from flash_engine.log import Logger
from flash_engine.nvml import load_pynvml

log = Logger("flash.launcher")

READ_SECONDS = 1.0
ASKED_SECONDS = 5.0
STALE_SECONDS = 10.0
"""An older reading is none: then nothing is known of the GPUs."""

MIB = 1 << 20


class GpuWatch:
    """The GPUs of this container as they were last read; they are read for as long as somebody asks."""

    def __init__(self, load: Callable[[], Any] | None = None) -> None:
        self._load = load or load_pynvml
        self._latest: tuple[float, tuple[Gpu, ...]] | None = None
        self._asked_at: float | None = None

    def latest(self, at: float) -> tuple[Gpu, ...] | None:
        """The last reading, None where there is none or it is old. `at` is of the clock time.monotonic."""
        if self._asked_at is None:
            threading.Thread(target=self._watch, name="gpu-watch", daemon=True).start()
        self._asked_at = at
        latest = self._latest
        return None if latest is None or at - latest[0] > STALE_SECONDS else latest[1]

    def _watch(self) -> None:
        try:
            nvml = self._load()
            nvml.nvmlInit()
        except Exception as error:  # noqa: BLE001 - what NVML raises is known only once it is there
            consequence = "a hang is told by the engine's processes alone"
            log.warning("GPUs are not watched", error=_what(error), consequence=consequence)
            return
        trouble: str | None = None
        while True:
            if time.monotonic() - (self._asked_at or 0.0) < ASKED_SECONDS:
                trouble = self._read(nvml, trouble)
            time.sleep(READ_SECONDS)

    def _read(self, nvml: Any, known: str | None) -> str | None:
        """Returns what went wrong; the next reading may succeed."""
        try:
            self._latest = (time.monotonic(), read_gpus(nvml))
        except Exception as error:  # noqa: BLE001 - as above
            if _what(error) != known:
                log.warning("GPUs cannot be read", error=_what(error))
            return _what(error)
        return None


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def read_gpus(nvml: Any) -> tuple[Gpu, ...]:
    """Raises NVMLError, for a slice of a GPU has neither power nor load of its own."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return tuple(_read_gpu(nvml, handle) for handle in handles)


def _read_gpu(nvml: Any, handle: Any) -> Gpu:
    return Gpu(
        # Of version 1 the used memory includes what the driver keeps for itself, up to 600 MiB.
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
