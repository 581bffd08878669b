"""Computes the router's choice of experts, as the model does.

Scores are sqrt(softplus(x W^T)) in FP32. A bias affects the choice but not the weights; the weights of the chosen
experts are normalised and scaled (DeepSeek's inference/model.py, Gate).
"""

from typing import Final

import torch
from torch import Tensor

from mtp_quantiser.captures import Capture
from mtp_quantiser.layout import MtpShape

TINY: Final = 1e-20


def choose(x: Tensor, weight: Tensor, bias: Tensor, shape: MtpShape) -> tuple[Tensor, Tensor]:
    """Experts (int64) and weights (FP32), both [n, k], for BF16 `x` [n, hidden]."""
    scores = torch.nn.functional.softplus(x.float() @ weight.float().T).sqrt()
    ids = (scores + bias).topk(shape.per_token, dim=1).indices
    chosen = scores.gather(1, ids)
    # Scores that round to zero give weights of zero, not 0/0.
    return ids, chosen / chosen.sum(1, keepdim=True).clamp_min(TINY) * shape.route_scale


def route(capture: Capture, gate: tuple[Tensor, Tensor], shape: MtpShape) -> tuple[Tensor, Tensor]:
    """Every token's experts and weights, on the device of `gate`: the engine's if captured, otherwise computed."""
    device = gate[0].device
    ids, weights = [], []
    for file in capture.files:
        if file.routed:
            parts = [file.choice(shape.experts)]
        else:
            parts = [choose(rows.to(device), *gate, shape) for _, rows in file.chunks()]
        ids += [part[0].to(device, torch.int64) for part in parts]
        weights += [part[1].to(device, torch.float32) for part in parts]
    return torch.cat(ids), torch.cat(weights)
