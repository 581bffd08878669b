"""E4M3 with a scale for each block of 128 by 128, as DeepSeek's official checkpoint stores its dense matrices."""

import torch

BLOCK = 128


def decode_fp8(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """BF16 [rows, columns] of E4M3 `weight` and FP32 `scale` [rows/128, columns/128], both rounded up.

    Exact if the scales are powers of two: E4M3 has four significant bits, BF16 eight.
    """
    rows, columns = weight.shape
    spread = scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return (weight.float() * spread).bfloat16()


def decode_e8m0(exponents: torch.Tensor) -> torch.Tensor:
    """FP32 powers of two of E8M0 bytes (uint8); exact. 255 means NaN and is refused by the reader."""
    return torch.exp2(exponents.float() - 127)
