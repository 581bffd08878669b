"""What the parent needs from the host: the driver version, read without a call that could hang, and stop signals."""

import re
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from flash_engine.nvml import load_pynvml

DRIVER_FILE = Path("/proc/driver/nvidia/version")
NVML_SECONDS = 5.0
"""A call into the driver of a faulty GPU may never return."""

_VERSION = re.compile(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)\s")


def driver_version(file: Path = DRIVER_FILE) -> str | None:
    """None if neither the kernel module nor NVML provides it."""
    try:
        return parse_driver(file.read_text()) or _nvml_driver_version()
    except OSError:
        return _nvml_driver_version()


def parse_driver(text: str) -> str | None:
    found = _VERSION.search(text)
    return found.group(1) if found else None


def _nvml_driver_version() -> str | None:
    answers: list[str] = []
    thread = threading.Thread(target=_ask_nvml, args=(answers,), name="nvml", daemon=True)
    thread.start()
    thread.join(NVML_SECONDS)
    return answers[0] if answers else None


def _ask_nvml(answers: list[str]) -> None:
    try:
        nvml: Any = load_pynvml()
        nvml.nvmlInit()
        version = nvml.nvmlSystemGetDriverVersion()
    except Exception:  # noqa: BLE001 - NVML's exceptions are defined only once it is loaded; the version stays unknown
        return
    answers.append(version.decode() if isinstance(version, bytes) else str(version))


class StopSignal:
    """Handles SIGTERM and SIGINT from its construction on, and returns True once either has arrived.

    The first process of a container ignores signals for which it has no handler.
    """

    def __init__(self) -> None:
        self._received = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def __call__(self) -> bool:
        return self._received

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._received = True
