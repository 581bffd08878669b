"""The program of the DaemonSet: keeps the labels of its own node up to date with the machine."""
