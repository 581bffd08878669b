"""flash-probe: whether two GPUs of one node may talk to each other directly.

The parent (`__main__`) is light, knows nothing of CUDA, and outlives everything: a GPU that waits for a peer's write
waits for ever, so what talks to GPUs are processes of their own, two ranks for each arm, killed when they go silent.
"""
