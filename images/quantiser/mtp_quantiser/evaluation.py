"""Measures quantisation error as the error of a matrix's output on given inputs."""

import torch
from torch import Tensor

from mtp_quantiser.stages import GROUP

ROWS = 16384


def relative_error(x: Tensor, weights: Tensor, values: Tensor) -> float:
    """|x (weights - values)|^2 / |x weights|^2 for `x` [n, in], matrices [in, out]; sums are float64. NaN for n = 0."""
    difference = (weights.float() - values.float()).to(x.dtype)
    lost = torch.zeros((), dtype=torch.float64, device=x.device)
    whole = torch.zeros_like(lost)
    for rows in x.split(ROWS):
        lost += (rows @ difference).double().square().sum()
        whole += (rows @ weights.to(x.dtype)).double().square().sum()
    return float((lost / whole).item())


def round_to_nearest(weights: Tensor, scales: Tensor) -> Tensor:
    """int8 codes [in, out] of `weights` [in, out], rounded to nearest; `scales` are [in/128, out]."""
    step = scales.float().repeat_interleave(GROUP, 0)
    return (weights.float() / step).round_().clamp_(-8, 7).to(torch.int8)


def decoded(codes: Tensor, scales: Tensor) -> Tensor:
    """BF16 [in, out]: the values that a pack-quantized decoder reads from `codes` and `scales`."""
    return (codes.float() * scales.float().repeat_interleave(GROUP, 0)).bfloat16()
