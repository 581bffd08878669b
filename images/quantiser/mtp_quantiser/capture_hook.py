"""Records the inputs of the experts in a running engine's MTP layer, in the format of `captures`.

Two entry points: `watch` for any module; and the vLLM plugin `register`. While FLASH_CAPTURE_DIR is set, the plugin
finds the draft's layer by its class at its first forward, in whichever process that runs, and watches the submodule
whose name ends in FLASH_CAPTURE_MODULE (ffn). The engine must run eagerly (`--enforce-eager`): a CUDA graph replays
kernels and calls no module.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from mtp_quantiser.captures import FORMAT, INPUT
from mtp_quantiser.expert_store import whole_or_not

ROWS: Final = 65536
"""Tokens in a file: 512 MiB at a hidden size of 4096."""

SECONDS: Final = 5.0
"""Tokens are written after this time at the latest, so that a crash of the engine loses little."""

DRAFT_CLASSES: Final = ("MTP", "MultiTokenPredictor")
"""Parts of the names of draft models' classes in vLLM. A model that vLLM may compile calls its forward past all hooks;
then it is the layer inside it (DeepSeekV4MultiTokenPredictorLayer) that is seen."""


@dataclass
class Recorder:
    """Collects tokens on the CPU and writes a file whenever enough have come or some time has passed."""

    folder: Path
    most: int
    """Stops recording after this many tokens."""
    rows: int = ROWS
    seconds: float = SECONDS
    recorded: int = 0
    _files: int = 0
    _waiting: list[Tensor] = field(default_factory=list)
    _written: float = field(default_factory=time.monotonic)

    def record(self, x: Tensor) -> None:
        """`x` [..., hidden] of any floating type; it is kept as BF16."""
        tokens = x.detach().flatten(0, -2)[: self.most - self.recorded]
        if len(tokens):
            self._waiting.append(tokens.to("cpu", torch.bfloat16, copy=True))
            self.recorded += len(tokens)
        late = time.monotonic() - self._written >= self.seconds
        if late or self.recorded == self.most or sum(map(len, self._waiting)) >= self.rows:
            self.flush()

    def flush(self) -> None:
        """Writes the recorded tokens to a file."""
        if self._waiting:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"capture-{os.getpid()}-{self._files:05}.safetensors"
            tensors = {INPUT: torch.cat(self._waiting)}
            whole_or_not(path, lambda unfinished: save_file(tensors, unfinished, metadata={"format": FORMAT}))
            self._files += 1
            self._waiting.clear()
        self._written = time.monotonic()


def watch(module: torch.nn.Module, recorder: Recorder) -> Any:
    """Record the first input of every forward of `module`; returns torch's handle to remove the hook."""

    def before(_module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        recorder.record(inputs[0] if inputs else next(iter(named.values())))

    return module.register_forward_pre_hook(before, with_kwargs=True)


def watch_named(model: torch.nn.Module, name: str, recorder: Recorder) -> int:
    """Watch every module of `model` whose name ends in `name`; returns how many there are."""
    found = [module for path, module in model.named_modules() if path == name or path.endswith(f".{name}")]
    for module in found:
        watch(module, recorder)
    return len(found)


def recorder_of(environment: Mapping[str, str]) -> Recorder | None:
    """None if FLASH_CAPTURE_DIR is not set, or in any but the first process of a tensor-parallel group."""
    folder = environment.get("FLASH_CAPTURE_DIR")
    if not folder or environment.get("RANK", "0") != "0":
        return None
    return Recorder(Path(folder), int(environment.get("FLASH_CAPTURE_TOKENS", "500000")))


_at_work: list[Recorder] = []
"""This process's recorder, once vLLM has called the plugin."""


class FlushingWorker:
    """Mixed into vLLM's workers (`worker_extension_cls`). A worker exits without running Python's exit handlers, so the
    caller must flush the last tokens before the engine ends."""

    def flush_capture(self) -> None:
        for recorder in _at_work:
            recorder.flush()


def register() -> None:
    """vLLM plugin: called once in each of its processes."""
    recorder = recorder_of(os.environ)
    if recorder is None:
        return
    name = os.environ.get("FLASH_CAPTURE_MODULE", "ffn")
    _at_work.append(recorder)
    watched: list[str] = []

    def find(module: torch.nn.Module, _inputs: object) -> None:
        kind = type(module).__name__
        if not watched and any(part in kind for part in DRAFT_CLASSES) and watch_named(module, name, recorder):
            watched.append(kind)
            print(f"mtp-capture: watching {name!r} of {kind}", flush=True)  # noqa: T201 - into the engine's log

    register_module_forward_pre_hook(find)
