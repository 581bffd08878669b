"""pack-quantized INT4 of compressed-tensors: eight nibbles per int32 along a row, the first lowest, code + 8."""

import torch

GROUP = 128


def unpack(words: torch.Tensor) -> torch.Tensor:
    """int8 codes [..., columns], -8..7, of `words` int32 [..., columns/8]."""
    shifts = 4 * torch.arange(8, device=words.device, dtype=torch.int32)
    return ((words[..., None] >> shifts & 15) - 8).flatten(-2).to(torch.int8)


def decode_int4(words: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """BF16 [..., columns]: BF16(code) * BF16 scale, rounded once, as in compressed-tensors' decoder."""
    return unpack(words).bfloat16() * scales.repeat_interleave(GROUP, -1)
