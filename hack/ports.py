"""Free ports for programs that need a port number as an argument.

A program that can listen on port 0 and report its port should do that. The kernel may give a released port to another
worker's server or to an outgoing connection a moment later. So the ports here are below the kernel's range, and each
is reserved for the lifetime of this process by a name that other processes of this machine see.
"""

import itertools
import os
import socket

FIRST, COUNT = 15_000, 14_000
"""Below the ranges of node ports (30000) and of the kernel (32768)."""

_given: set[int] = set()


def a_free_port() -> int:
    """A port on which no process listens, and that no other call returns."""
    start = os.getpid() * 97  # workers that start together search in different places
    for step in itertools.islice(itertools.count(start), COUNT):
        port = FIRST + step % COUNT
        if port not in _given and _is_free(port) and _hold(port):
            return port
    raise OSError(f"no port is free from {FIRST} to {FIRST + COUNT - 1}")


def _is_free(port: int) -> bool:
    """Checks every address, because a server on one of them would answer."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _hold(port: int) -> bool:
    """Reserves it by an abstract socket name, which disappears with the process."""
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0deepseek-flash-port-{port}")
    except OSError:
        holder.close()
        return False
    holder.detach()  # stays open until the process ends
    _given.add(port)
    return True
