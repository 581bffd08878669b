"""Runs on every GPU node: reads the GPUs and their links, labels the node accordingly, and draws its topology."""
