"""flash-p2p-test: checks whether two GPUs of a node can use peer-to-peer.

The parent process (`__main__`) never touches CUDA, so it survives any GPU hang: a GPU may wait for its peer's write
forever. All GPU work happens in rank processes, two for each variant, which are killed when they stop making progress.
"""
