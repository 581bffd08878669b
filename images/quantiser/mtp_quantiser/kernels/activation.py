"""The gated activation of the routed experts, as the model rounds it."""

import torch
import triton
import triton.language as tl

COLUMNS = 1024


@triton.jit
def _gate(both, route, out, width, LIMIT: tl.constexpr, COLUMNS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    for first in range(0, width, COLUMNS):
        c = first + tl.arange(0, COLUMNS)
        inside = c < width
        gate = tl.load(both + token * 2 * width + c, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(both + token * 2 * width + width + c, mask=inside, other=0.0).to(tl.float32)
        gate = tl.minimum(gate, LIMIT)
        up = tl.minimum(tl.maximum(up, -LIMIT), LIMIT)
        product = gate / (1.0 + tl.exp(-gate)) * up * tl.load(route + token)
        tl.store(out + token * width + c, product.to(tl.bfloat16), mask=inside)


def gate_into(both: torch.Tensor, route: torch.Tensor, limit: float, out: torch.Tensor) -> None:
    """`out` [tokens, width] from `both` [tokens, 2 width]: silu(min(gate, limit)) * clamp(up) * route weight."""
    _gate[(both.shape[0],)](both, route, out, out.shape[1], LIMIT=limit, COLUMNS=COLUMNS)
