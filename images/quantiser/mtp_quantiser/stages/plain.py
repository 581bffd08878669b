"""The stages in torch operators: for CPUs, and as the reference for every kernel."""

from itertools import pairwise

import torch
from torch import Tensor

from mtp_quantiser.formats.fp4 import decode_fp4
from mtp_quantiser.stages import GROUP, Factor, ScaleGrid, Spread, Swept, correlation_of, counting_of, sampled_columns

BLOCK = 128


class PlainStages:
    """Fuses nothing and keeps nothing between calls."""

    def dequantise_into(self, packed: Tensor, exponents: Tensor, out: Tensor, first: int) -> None:
        rows = packed.shape[1]
        out[:, :, first : first + rows] = decode_fp4(packed, exponents).transpose(1, 2)

    def gram(self, x: Tensor, offsets: Tensor) -> Tensor:
        bounds = offsets.tolist()
        out = torch.empty(len(bounds) - 1, x.shape[1], x.shape[1], dtype=torch.float32, device=x.device)
        for expert, (begin, end) in enumerate(pairwise(bounds)):
            rows = x[begin:end].float()
            torch.mm(rows.T, rows, out=out[expert])
        return out

    def spread(self, x: Tensor, offsets: Tensor, h: Tensor) -> Spread:
        bounds, sample = offsets.tolist(), sampled_columns(x.shape[1], x.device)
        some = h[:, sample][:, :, sample]
        diagonal = some.diagonal(dim1=1, dim2=2)
        inverse = torch.where(diagonal > 0, 1 / diagonal, 0.0)
        noise = torch.zeros(len(h), device=x.device)
        powers = torch.zeros(3, len(h), device=x.device)
        for expert, (begin, end) in enumerate(pairwise(bounds)):
            z = x[begin:end, sample].float().square() * inverse[expert]
            whole = z.sum(1)
            noise[expert] = (whole.square() - z.square().sum(1)).sum()
            powers[:, expert] = torch.stack([(whole**k).sum() for k in (1, 2, 3)])
        return Spread(noise, counting_of(powers), correlation_of(some))

    def gate_into(self, both: Tensor, route: Tensor, limit: float, out: Tensor) -> None:
        gate, up = both.float().chunk(2, dim=1)
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        out.copy_(gate * torch.sigmoid(gate) * up * route[:, None])

    def factorise(self, h: Tensor, order: Tensor, damping: Tensor) -> Factor:
        batch, n, _ = h.shape
        index = order.long()
        damped = h.gather(1, index[:, :, None].expand(-1, -1, n)).gather(2, index[:, None, :].expand(-1, n, -1))
        diagonal = damped.diagonal(dim1=1, dim2=2)
        diagonal.copy_(torch.where(diagonal == 0, 1.0, diagonal) + damping[:, None])
        lower, failed = torch.linalg.cholesky_ex(damped)
        tiles = lower.view(batch, n // BLOCK, BLOCK, n // BLOCK, BLOCK)
        blocks = torch.stack([tiles[:, k, :, k] for k in range(n // BLOCK)], dim=1).contiguous()
        return Factor(lower.contiguous(), blocks, failed.ne(0).to(torch.int32))

    def search_scales(self, weights: Tensor, importance: Tensor, grid: ScaleGrid) -> Tensor:
        batch, columns, rows = weights.shape
        w = weights.view(batch, columns // GROUP, GROUP, rows).float()
        share = importance.view(batch, columns // GROUP, GROUP, 1)
        largest = (w.abs().amax(2) / 7.5).clamp_min(1e-12)
        best = torch.full_like(largest, torch.inf)
        factor = torch.ones_like(largest)
        for k in range(grid.coarse):
            tried = torch.full_like(factor, grid.top - grid.coarse_step * k)
            best, factor = _better(w, share, largest, tried, best, factor)
        centre = factor
        for k in range(grid.fine):
            tried = centre + grid.fine_step * (k - (grid.fine - 1) / 2)
            best, factor = _better(w, share, largest, tried, best, factor)
        return (largest * factor).bfloat16()

    def sweep(self, weights: Tensor, scales: Tensor, factor: Factor, order: Tensor) -> Swept:
        batch, columns, rows = weights.shape
        index = order.long()
        w = weights.gather(1, index[:, :, None].expand(-1, -1, rows)).float()
        s = scales.gather(1, (index // GROUP)[:, :, None].expand(-1, -1, rows)).float()
        residual, codes = torch.zeros_like(w), torch.zeros_like(w, dtype=torch.int8)
        loss = torch.zeros(batch, rows, device=w.device)
        for begin in range(columns - BLOCK, -1, -BLOCK):
            end = begin + BLOCK
            lower = factor.lower[:, end:, begin:end]
            asked = torch.bmm(lower.mT.float(), residual[:, end:])
            block = factor.blocks[:, begin // BLOCK]
            for j in range(BLOCK - 1, -1, -1):
                pivot = block[:, j, j, None]
                target = w[:, begin + j] + asked[:, j] / pivot
                code = (target / s[:, begin + j]).round_().clamp_(-8, 7)
                value = (code * s[:, begin + j]).bfloat16().float()
                error = w[:, begin + j] - value
                asked[:, :j] += block[:, j, :j, None] * error[:, None, :]
                loss += ((target - value) * pivot).square_()
                residual[:, begin + j], codes[:, begin + j] = error, code.to(torch.int8)
        back = torch.argsort(index, dim=1)
        return Swept(codes.gather(1, back[:, :, None].expand(-1, -1, rows)), loss)

    def pack(self, codes: Tensor) -> Tensor:
        batch, columns, rows = codes.shape
        nibbles = (codes.mT.to(torch.int64) + 8).view(batch, rows, columns // 8, 8)
        words = (nibbles << (4 * torch.arange(8, device=codes.device))).sum(-1)
        return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _better(
    w: Tensor, share: Tensor, largest: Tensor, tried: Tensor, best: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor]:
    """The smaller error and its factor, of the best so far and `tried`."""
    scale = (largest * tried).bfloat16().float()[:, :, None]
    code = (w * (1.0 / scale)).round_().clamp_(-8, 7)
    error = (w - code * scale).square_().mul_(share).sum(2)
    better = error < best
    return torch.where(better, error, best), torch.where(better, tried, factor)
