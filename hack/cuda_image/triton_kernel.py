"""A kernel of Triton's language, which reads it from a file."""

import triton
import triton.language as tl


@triton.jit
def add_one(x, y, n, block: tl.constexpr):
    at = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(y + at, tl.load(x + at, mask=at < n) + 1, mask=at < n)
