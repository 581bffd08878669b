"""One reading of the machine that this process is on."""

import importlib
from datetime import UTC, datetime
from pathlib import Path

from flash_node.dump import NodeDump
from flash_node.nvml import Nvml, NvmlReader
from flash_node.sysfs import SYS, with_sysfs


def read_node(nvml: Nvml, node: str, root: Path = SYS, source: str = "") -> NodeDump:
    """Never raises for what hardware may do; what could not be read is in `faults`."""
    reader = NvmlReader(nvml)
    driver, gpus, pairs = reader.read()
    return NodeDump(
        node=node,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        source=source,
        driver=driver,
        gpus=tuple(with_sysfs(gpu, root) for gpu in gpus),
        pairs=pairs,
        faults=tuple(reader.faults),
    )


def load_nvml() -> Nvml:
    """pynvml, which looks for the driver's library when it is initialised and not before."""
    nvml: Nvml = importlib.import_module("pynvml")
    return nvml
