"""The DaemonSet's program, which keeps the labels of its own node up to date with the machine."""
