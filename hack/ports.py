"""A port for a program that must be told one.

Where a program can listen on port 0 and say what it got, that is better. A port that the kernel hands out and takes
back may be handed out again a moment later, to another worker's server or to somebody's outgoing connection. So ports
here are below those that the kernel hands out, and each is held for as long as this process lives, by a name that
other processes of this machine see.
"""

import itertools
import os
import socket

FIRST, COUNT = 15_000, 14_000
"""Below node ports (30000) and the kernel's own (32768)."""

_given: set[int] = set()


def a_free_port() -> int:
    """Nobody listens there, and nobody else who asks here is told the same."""
    start = os.getpid() * 97  # workers that begin together look in different places
    for step in itertools.islice(itertools.count(start), COUNT):
        port = FIRST + step % COUNT
        if port not in _given and _is_free(port) and _hold(port):
            return port
    raise OSError(f"no port is free from {FIRST} to {FIRST + COUNT - 1}")


def _is_free(port: int) -> bool:
    """On every address: a server on one of them would answer for it."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _hold(port: int) -> bool:
    """By a name outside of the file system, which is gone with its process."""
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0deepseek-flash-port-{port}")
    except OSError:
        holder.close()
        return False
    holder.detach()  # open until the process ends, and no object that somebody would have to close
    _given.add(port)
    return True
