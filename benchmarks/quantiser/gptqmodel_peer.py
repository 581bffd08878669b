"""GPTQModel's GPTQ core on the same job: its own class, as version 7.6.0 has it, on a CPU or a GPU.

Installed without its dependencies, it needs pypcre, logbar, device-smi, tokenicer, defuser, accelerate and
threadpoolctl besides torch and transformers. The Hessian is ours, stored where its own hooks would accumulate it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

GROUP = 128


@dataclass(frozen=True)
class GptqModelPeer:
    gptq: Any
    config: Any
    quantizer: Any
    version: str

    @classmethod
    def load(cls) -> "GptqModelPeer":
        """Raises ImportError where gptqmodel is not installed."""
        # ruff: noqa: PLC0415 - a hundred modules, and a banner
        from importlib.metadata import version

        from gptqmodel.quantization.config import QuantizeConfig
        from gptqmodel.quantization.gptq import GPTQ
        from gptqmodel.quantization.quantizer import Quantizer

        return cls(GPTQ, QuantizeConfig, Quantizer, version("gptqmodel"))

    def values(self, w: Tensor, h: Tensor, scales: Tensor, share: float, count: int) -> Iterator[tuple[str, Tensor]]:
        """Matrices [in, out] of `w` [in, out]: as it comes; with our scales [in/128, out], columns as they lie."""
        yield "GPTQModel as it comes: group-aware order, its scales, damping 0.05", self._run(w, h, count)
        for damping in sorted({0.05, round(share, 6)}):
            fixed = {"act_group_aware": False, "desc_act": False, "static_groups": True, "damp_percent": damping}
            yield f"GPTQModel, no order, damping {damping:.3g}", self._run(w, h, count, scales, **fixed)

    def _run(self, w: Tensor, h: Tensor, count: int, scales: Tensor | None = None, **options: Any) -> Tensor:
        module = torch.nn.Linear(*w.shape, bias=False, device=w.device)
        module.weight.data = w.mT.float().contiguous()
        task = self.gptq(module, self.config(bits=4, group_size=GROUP, sym=True, **options))
        if scales is None:
            task.quantizer.configure(perchannel=True)
        else:
            task.quantizer = self._with(scales, task)
        task._device_hessian_partials[h.device] = h.float().clone() * count  # noqa: SLF001 - as its add_batch does
        task._device_sample_counts[h.device] = count  # noqa: SLF001
        task._hessian_dirty = True  # noqa: SLF001
        task.nsamples = count
        return torch.as_tensor(task.quantize()[0]).mT.bfloat16()

    def _with(self, scales: Tensor, task: Any) -> Any:
        """Its quantizer, but for the search: group after group it is given our scales."""
        given = iter(scales)

        class Given(self.quantizer):  # type: ignore[name-defined,misc]
            def __deepcopy__(self, _memo: Any) -> "Given":
                return made()

            def find_params(self, x: Tensor, weight: bool = False) -> None:  # noqa: FBT001, FBT002 - as it is called
                super().find_params(x, weight=weight)
                if x.shape[1] == GROUP:
                    self.scale = next(given).float()[:, None]

        def made() -> Given:
            one = Given(qcfg=task.qcfg, name=task.name)
            one.configure(perchannel=True)
            return one

        return made()
