"""Triton kernels of the one-GPU path. Each has its plain torch counterpart in `mtp_quantiser.stages.plain`.

Weights, residuals, codes and scales lie transposed, [in, out]: a column of the sweep is then one contiguous vector over
the rows of a matrix, a thread owns a row, and the order in which columns are quantised is an index, never a copy.
"""
