"""The driver's version, from where it can be read without asking the driver anything that may never return."""

import re
import threading
from pathlib import Path
from typing import Any

from flash_engine.nvml import load_pynvml

DRIVER_FILE = Path("/proc/driver/nvidia/version")
NVML_SECONDS = 5.0
"""A call into a sick GPU's driver may never return."""

_VERSION = re.compile(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)\s")


def driver_version(file: Path = DRIVER_FILE) -> str | None:
    """None where neither the kernel module nor NVML tells."""
    try:
        return parse_driver(file.read_text()) or _driver_of_nvml()
    except OSError:
        return _driver_of_nvml()


def parse_driver(text: str) -> str | None:
    found = _VERSION.search(text)
    return found.group(1) if found else None


def _driver_of_nvml() -> str | None:
    told: list[str] = []
    thread = threading.Thread(target=_ask_nvml, args=(told,), name="nvml", daemon=True)
    thread.start()
    thread.join(NVML_SECONDS)
    return told[0] if told else None


def _ask_nvml(told: list[str]) -> None:
    try:
        nvml: Any = load_pynvml()
        nvml.nvmlInit()
        version = nvml.nvmlSystemGetDriverVersion()
    except Exception:  # noqa: BLE001 - what NVML raises is known only once it is there; then nothing is known
        return
    told.append(version.decode() if isinstance(version, bytes) else str(version))
