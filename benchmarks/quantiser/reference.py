"""GPTQ as published, in float64, column after column: slow, simple, and the reference for faster implementations.

Frantar et al., "GPTQ", 2023, algorithm 1: the upper Cholesky factor of the inverse Hessian, errors spread over the
remaining columns. The product does not use this; it factors H itself and sweeps in the other direction.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 128


@dataclass(frozen=True)
class Reference:
    codes: Tensor
    """int8 [out, in]."""
    loss: float
    """tr(d H' d^T), H' the damped Hessian."""
    margins: Tensor
    """float64 [out]: how near any value of the row came to the edge between two codes, in codes. A row is swept on its
    own, so another implementation must find the same codes wherever the margin is above its own rounding error."""


def gptq(weights: Tensor, h: Tensor, scales: Tensor, damping: float, kept: Tensor) -> Reference:
    """`weights` [out, in], `h` [in, in], `scales` [out, in/128], `kept` [in]: columns, the first is swept last."""
    h, w, order = h.double(), weights.double(), kept.long().flip(0)
    damped = h[order][:, order]
    diagonal = damped.diagonal()
    diagonal.copy_(torch.where(diagonal == 0, 1.0, diagonal) + damping)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    rest, codes, loss = w[:, order].clone(), torch.empty_like(w, dtype=torch.int8), 0.0
    margins = torch.full((len(w),), 0.5, dtype=torch.float64, device=w.device)
    for j, column in enumerate(order.tolist()):
        scale = scales[:, column // GROUP].double()
        exact = rest[:, j] / scale
        code = exact.round().clamp(-8, 7)
        to_edge = torch.where((exact < -8) | (exact > 7), 0.5, 0.5 - (exact - code).abs())
        margins = torch.minimum(margins, to_edge)
        value = (code * scale).bfloat16().double()
        error = (rest[:, j] - value) / inverse[j, j]
        rest[:, j + 1 :] -= error[:, None] * inverse[j, j + 1 :][None, :]
        codes[:, column] = code.to(torch.int8)
        loss += error.square().sum().item()
    return Reference(codes, loss, margins)
