"""Takes one reading of the machine on which this process runs."""

import importlib
from datetime import UTC, datetime
from pathlib import Path

from flash_node.dump import NodeDump
from flash_node.nvml import Nvml, NvmlReader
from flash_node.sysfs import SYS, loaded_driver, numa_nodes, other_cards, with_sysfs


def read_node(nvml: Nvml, node: str, root: Path = SYS, source: str = "") -> NodeDump:
    """Take a reading. Never raises because of hardware: `faults` lists what could not be read."""
    reader = NvmlReader(nvml)
    driver, gpus, pairs = reader.read()
    return NodeDump(
        node=node,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        source=source,
        # If NVML does not answer, the kernel still knows the driver, whose change would invalidate verdicts.
        driver=driver or loaded_driver(root),
        gpus=tuple(with_sysfs(gpu, root) for gpu in gpus),
        pairs=pairs,
        numa=numa_nodes(root),
        other_cards=other_cards([gpu.bus for gpu in gpus if gpu.bus], root),
        faults=tuple(reader.faults),
    )


def load_nvml() -> Nvml:
    """Import pynvml. It loads the driver's library only when it is initialised."""
    nvml: Nvml = importlib.import_module("pynvml")
    return nvml
