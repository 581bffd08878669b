"""A kernel of tilelang's language: one block of a matrix product."""

import tilelang.language as T

SIDE = 128


@T.prim_func
def multiply(
    a: T.Tensor((SIDE, SIDE), "float16"), b: T.Tensor((SIDE, SIDE), "float16"), c: T.Tensor((SIDE, SIDE), "float16")
):
    with T.Kernel(1, threads=128) as _:
        left = T.alloc_shared((SIDE, SIDE), "float16")
        right = T.alloc_shared((SIDE, SIDE), "float16")
        sums = T.alloc_fragment((SIDE, SIDE), "float32")
        T.clear(sums)
        T.copy(a, left)
        T.copy(b, right)
        T.gemm(left, right, sums)
        T.copy(sums, c)
