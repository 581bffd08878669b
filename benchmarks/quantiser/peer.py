"""llm-compressor's GPTQ core on the same job: its own functions, as version 0.14.0.1 has them.

Only the core is imported, without the package's __init__, which needs datasets, accelerate and auto-round. Dequantising
weights, gathering inputs, the inputs of w2, and the scales are not counted against the peer. Its time is for Hessians
(`accumulate_hessian`) and `quantize_weight`, on its Triton path, in stacks of the size that it picks itself.
"""

import importlib.util
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

BARE: Final = (
    "llmcompressor",
    "llmcompressor.modifiers",
    "llmcompressor.modifiers.gptq",
    "llmcompressor.observers",
    "llmcompressor.utils",
    "llmcompressor.modifiers.utils",
)


@dataclass(frozen=True)
class Peer:
    quantize_weight: Any
    accumulate_hessian: Any
    max_batch_size: Any
    arguments: Any
    """compressed-tensors' QuantizationArgs, called with actorder."""
    version: str

    @classmethod
    def load(cls) -> "Peer":
        """Raises ImportError where llmcompressor is not installed."""
        found = importlib.util.find_spec("llmcompressor")
        if found is None or not found.submodule_search_locations:
            raise ImportError("llmcompressor is not installed")
        root = Path(found.submodule_search_locations[0]).parent
        for name in BARE:
            module = types.ModuleType(name)
            module.__path__ = [str(root.joinpath(*name.split(".")))]
            sys.modules[name] = module
        # ruff: noqa: PLC0415 - only now can they be imported
        from compressed_tensors.quantization import QuantizationArgs
        from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
        from llmcompressor.modifiers.gptq.helpers import accumulate_hessian, max_batch_size

        (version,) = (path.name.split("-")[1] for path in root.glob("llmcompressor-*.dist-info"))
        return cls(quantize_weight, accumulate_hessian, max_batch_size, QuantizationArgs, version.removesuffix(".dist"))

    def hessian(self, x: Tensor) -> Tensor:
        """[columns, columns] of one matrix's inputs `x` [n, columns]."""
        columns = x.shape[1]
        module = torch.nn.Linear(columns, 1, bias=False, device=x.device)
        h = torch.zeros(columns, columns, device=x.device)
        return self.accumulate_hessian(x, module, h, torch.zeros((), device=x.device))[0] / max(1, len(x))

    def stack(self, rows: int, columns: int) -> int:
        """How many matrices it would stack by itself ("auto"), with the memory that is free now."""
        with torch.device("cuda"):
            module = torch.nn.Linear(columns, rows, bias=False, dtype=torch.bfloat16)
        return int(self.max_batch_size(module, "auto", 128))

    def quantise(self, weights: Tensor, hessians: Tensor, scales: Tensor, order: str | None, damping: float) -> Tensor:
        """Dequantised [stack, out, in] FP32; destroys `weights` FP32 and `hessians`."""
        arguments = self.arguments(
            num_bits=4, type="int", symmetric=True, strategy="group", group_size=128, actorder=order
        )
        result = self.quantize_weight(
            weights, hessians, scales, torch.zeros_like(scales), None, arguments, percdamp=damping
        )
        return result[0]
