"""NVML without a driver. It answers, and fails, like the NVML of a described machine."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml

from fake_node.machine import LEVELS, STATUSES, Machine

MIB = 1 << 20
P2P_NVLINK = 2
NOT_SUPPORTED = 5


class FakeNvml:
    """Handles are the indices of the cards. Errors are those of the real pynvml."""

    NVMLError = pynvml.NVMLError

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.initialised = 0

    def nvmlInit(self) -> None:  # noqa: N802 - pynvml's name, as are the others
        self._may_fail("nvmlInit")
        self.initialised += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.initialised -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        self._may_fail("nvmlSystemGetDriverVersion")
        return self._machine.driver

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._may_fail("nvmlDeviceGetCount")
        return len(self._machine.buses)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        self._may_fail("nvmlDeviceGetHandleByIndex", index)
        return index

    def nvmlDeviceGetTopologyCommonAncestor(self, first: int, second: int) -> int:  # noqa: N802
        self._may_fail("nvmlDeviceGetTopologyCommonAncestor", first)
        level = self._machine.links[first][second]
        return LEVELS["SYS"] if level.startswith("NV") else LEVELS[level]

    def nvmlDeviceGetP2PStatus(self, first: int, second: int, index: int) -> int:  # noqa: N802
        self._may_fail("nvmlDeviceGetP2PStatus", first)
        if not isinstance(index, int):
            raise TypeError("the index must be a number; pynvml's own constant is a tuple")
        if index == P2P_NVLINK:
            return 0 if self._machine.links[first][second].startswith("NV") else NOT_SUPPORTED
        return STATUSES[self._machine.statuses[first][second]]

    def __getattr__(self, name: str) -> Any:
        """Calls about a single card."""
        if name not in _CARD_CALLS:
            raise AttributeError(name)

        def call(card: int) -> Any:
            self._may_fail(name, card)
            return _CARD_CALLS[name](self._machine, card)

        return call

    def _may_fail(self, name: str, card: int | None = None) -> None:
        for scope in ("all", card):
            code = self._machine.fails.get(scope, {}).get(name)
            if code is not None:
                raise pynvml.NVMLError(code)


_CARD_CALLS: dict[str, Callable[[Machine, int], Any]] = {
    "nvmlDeviceGetName": lambda machine, card: machine.card_at(card)["name"],
    "nvmlDeviceGetUUID": lambda _, card: f"GPU-{card:08x}-0000-0000-0000-000000000000",
    "nvmlDeviceGetPciInfo_v3": lambda machine, card: SimpleNamespace(busId=machine.buses[card]),
    "nvmlDeviceGetMemoryInfo": lambda machine, card: SimpleNamespace(total=machine.card_at(card)["memoryMiB"] * MIB),
    "nvmlDeviceGetBAR1MemoryInfo": lambda machine, card: SimpleNamespace(
        bar1Total=machine.card_at(card)["bar1MiB"] * MIB
    ),
    "nvmlDeviceGetEnforcedPowerLimit": lambda machine, card: machine.card_at(card)["watts"] * 1000,
    "nvmlDeviceGetMaxPcieLinkGeneration": lambda machine, card: machine.card_at(card)["generation"],
    "nvmlDeviceGetMaxPcieLinkWidth": lambda machine, card: _own(machine.lanes, card, machine.card_at(card)["lanes"]),
    "nvmlDeviceGetCurrPcieLinkWidth": lambda machine, card: _own(
        machine.lanesNow or machine.lanes, card, machine.card_at(card)["lanes"]
    ),
    "nvmlDeviceGetVirtualizationMode": lambda machine, card: machine.card_at(card).get("virtualization", 0),
    "nvmlDeviceGetMigMode": lambda machine, card: [int(_own(machine.mig, card, default=False))] * 2,
}


def _own(values: list[Any], card: int, default: Any) -> Any:
    return values[card] if values else default
