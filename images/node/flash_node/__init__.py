"""Runs on every GPU node: reads the GPUs and the links between them, labels the node with them, and draws them."""
