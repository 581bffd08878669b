"""Reads the cards through NVML. If a call fails, only its own value is unknown."""

from collections.abc import Callable
from itertools import combinations
from typing import Any, Protocol, TypeVar

from flash_node.dump import GpuDump, PairDump

Value = TypeVar("Value")

P2P_READ, P2P_WRITE, P2P_NVLINK = 0, 1, 2
"""Indices of nvmlDeviceGetP2PStatus. pynvml's NVML_P2P_CAPS_INDEX_READ is the tuple (0,) because of a stray comma."""

NOT_SUPPORTED = 3
"""NVML_ERROR_NOT_SUPPORTED: the card lacks the feature, which is not a fault."""


class Nvml(Protocol):
    """The part of the module pynvml (nvidia-ml-py) that is used here. The calls raise NVMLError."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802 - pynvml's name, as are the others
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlSystemGetDriverVersion(self) -> str: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: Any) -> str: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...  # noqa: N802
    def nvmlDeviceGetPciInfo_v3(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetBAR1MemoryInfo(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetCurrPcieLinkWidth(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetVirtualizationMode(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetMigMode(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetTopologyCommonAncestor(self, first: Any, second: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetP2PStatus(self, first: Any, second: Any, index: int) -> int: ...  # noqa: N802


class NvmlReader:
    """Takes one reading. `faults` collects the failed calls."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self.faults: list[str] = []

    def read(self) -> tuple[str | None, tuple[GpuDump, ...], tuple[PairDump, ...]]:
        """The driver version, the cards, and their pairs. All are empty if NVML cannot be initialised."""
        if not self._start():
            return None, (), ()
        try:
            nvml = self._nvml
            driver = self._ask("driver", lambda: _text(nvml.nvmlSystemGetDriverVersion()))
            count = self._ask("count of GPUs", nvml.nvmlDeviceGetCount) or 0
            handles = {index: self._handle(index) for index in range(count)}
            gpus = tuple(self._gpu(index, handle) for index, handle in handles.items())
            pairs = tuple(self._pair(one, other, handles) for one, other in combinations(handles, 2))
            return driver, gpus, pairs
        finally:
            self._ask("shutdown", nvml.nvmlShutdown)

    def _start(self) -> bool:
        """Initialise NVML. Done for each reading, so that it finds a driver that was loaded or reloaded in between."""
        try:
            self._nvml.nvmlInit()
        except (self._nvml.NVMLError, OSError) as error:
            self.faults.append(f"NVML: {error}")
            return False
        return True

    def _handle(self, index: int) -> Any:
        return self._ask(f"GPU {index}", lambda: self._nvml.nvmlDeviceGetHandleByIndex(index))

    def _gpu(self, index: int, handle: Any) -> GpuDump:
        """A card that fell off the bus has no handle but still counts as a card of the node."""
        if handle is None:
            return GpuDump(index=index)
        nvml = self._nvml

        def ask(what: str, call: Callable[[], Value]) -> Value | None:
            return self._ask(f"{what} of GPU {index}", call)

        return GpuDump(
            index=index,
            name=ask("name", lambda: _text(nvml.nvmlDeviceGetName(handle))),
            uuid=ask("UUID", lambda: _text(nvml.nvmlDeviceGetUUID(handle))),
            bus=ask("PCI address", lambda: pci_address(_text(nvml.nvmlDeviceGetPciInfo_v3(handle).busId))),
            memory=ask("memory", lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).total)),
            bar1=ask("BAR1", lambda: int(nvml.nvmlDeviceGetBAR1MemoryInfo(handle).bar1Total)),
            power_limit=ask("power limit", lambda: int(nvml.nvmlDeviceGetEnforcedPowerLimit(handle))),
            pcie_generation=ask("PCIe generation", lambda: int(nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle))),
            pcie_lanes=ask("PCIe width", lambda: int(nvml.nvmlDeviceGetMaxPcieLinkWidth(handle))),
            pcie_lanes_now=ask("PCIe width in use", lambda: int(nvml.nvmlDeviceGetCurrPcieLinkWidth(handle))),
            virtualization=ask("virtualisation", lambda: int(nvml.nvmlDeviceGetVirtualizationMode(handle))),
            mig=ask("MIG mode", lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0])),
        )

    def _pair(self, one: int, other: int, handles: dict[int, Any]) -> PairDump:
        first, second = handles[one], handles[other]
        if first is None or second is None:
            return PairDump(first=one, second=other)
        nvml, name = self._nvml, f"of GPUs {one} and {other}"
        level = self._ask(f"link {name}", lambda: int(nvml.nvmlDeviceGetTopologyCommonAncestor(first, second)))
        ways = [
            (first, second, P2P_READ),
            (first, second, P2P_WRITE),
            (second, first, P2P_READ),
            (second, first, P2P_WRITE),
        ]
        there_read, there_write, back_read, back_write = (self._status(name, *way) for way in ways)
        return PairDump(
            first=one,
            second=other,
            ancestor=level,
            nvlink=self._status(name, first, second, P2P_NVLINK),
            p2p=(there_read, there_write, back_read, back_write),
        )

    def _status(self, name: str, first: Any, second: Any, index: int) -> int | None:
        return self._ask(f"P2P status {name}", lambda: int(self._nvml.nvmlDeviceGetP2PStatus(first, second, index)))

    def _ask(self, what: str, call: Callable[[], Value]) -> Value | None:
        try:
            return call()
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) != NOT_SUPPORTED:
                self._add_fault(f"{what}: {error}")
        except (TypeError, ValueError, AttributeError) as error:
            # A library and a driver of different versions can return unexpected types.
            self._add_fault(f"{what}: {type(error).__name__}: {error}")
        return None

    def _add_fault(self, fault: str) -> None:
        if fault not in self.faults:
            self.faults.append(fault)


def pci_address(bus: str) -> str:
    """A PCI address in the form of /sys. NVML writes the domain with eight digits and in capitals."""
    domain, _, rest = bus.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
