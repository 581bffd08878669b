"""The launcher: waits for its node's flags, runs vLLM with them, and records how it ended."""
