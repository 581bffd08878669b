"""E2M1 with E8M0 scales per 32 columns, as DeepSeek's official checkpoint stores its routed experts.

Two values per byte along the input dimension, the even column in the low nibble; a scale byte b means 2^(b - 127).
"""

import torch

GROUP = 32
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
NOT_A_NUMBER = 255


def decode_fp4(packed: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
    """BF16 [..., rows, columns] of `packed` uint8 [..., rows, columns/2] and `exponents` uint8 [..., rows, columns/32].

    Exact: two significant bits times a power of two within BF16's range.
    """
    table = torch.tensor(VALUES, dtype=torch.float32, device=packed.device)
    nibbles = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)
    scale = torch.exp2(exponents.float() - 127)
    return (table[nibbles.int()] * scale.repeat_interleave(GROUP, dim=-1)).bfloat16()
