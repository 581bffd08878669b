"""The DaemonSet's program: it keeps the labels of its own node at what the machine says."""
