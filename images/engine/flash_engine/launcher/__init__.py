"""The launcher: waits for its node's flags, runs vLLM with them, and writes down what became of it."""
