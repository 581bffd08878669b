"""Selects the vLLM: that of this Python on GPUs, or that of the CPU image to test this program."""

import os
import shutil
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flash_engine.launcher import jit_cache
from image_builder.layout import ROOT
from vllm_walk.environment import ensure

ENGINE = ROOT / "images/engine"


@dataclass(frozen=True)
class Engine:
    """How to start it, and with which variables beside the pod's."""

    python: Path
    environment: Mapping[str, str]
    module: str = "vllm.entrypoints.cli.main"

    def command(self, folder: Path) -> Path:
        """What the pod calls `vllm`."""
        made = folder / "vllm"
        made.write_text(f'#!/bin/sh\nexec {self.python} -m {self.module} "$@"\n')
        made.chmod(0o755)
        return made


def cuda_engine(folder: Path, cache: Path) -> Engine:
    """The vLLM that this Python imports. What it compiles is kept for all starts of a trial."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    return Engine(
        Path(sys.executable),
        {
            **os.environ,
            **jit_cache.environment(cache),
            "CUDA_HOME": os.environ.get("CUDA_HOME", str(Path(nvcc).resolve().parents[1])),
            "PYTHONPATH": os.pathsep.join([str(entry_point(folder)), str(ENGINE), os.environ.get("PYTHONPATH", "")]),
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONUNBUFFERED": "1",
        },
    )


def cpu_engine(folder: Path) -> Engine:
    environment = ensure()
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "PYTHONUNBUFFERED": "1"}
    return Engine(environment.python, environment.variables(entry_point(folder), cuda=False) | settings)


def entry_point(folder: Path) -> Path:
    """The metadata that tells vLLM of the plugin, where our package is on the path and not installed."""
    project = tomllib.loads((ENGINE / "pyproject.toml").read_text())["project"]
    made = folder / "entry"
    metadata = made / f"flash_engine-{project['version']}.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flash-engine\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [line for group, points in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return made
