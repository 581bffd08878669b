"""Triton kernels of the one-GPU path. Each has its plain torch counterpart in `mtp_quantiser.stages.plain`.

Weights, residuals, codes and scales are stored transposed, [in, out], so that a column of the sweep is one contiguous
vector over the rows of a matrix, a thread owns a row, and the column order is an index, never a copy.
"""
