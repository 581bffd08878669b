"""Exit codes of every command: one table for the programs, `--help` and the documentation."""

from enum import IntEnum


class Exit(IntEnum):
    """What a script may conclude from the end of a command."""

    DONE = 0
    NOT_READY = 1
    USAGE = 2
    UNREACHABLE = 3
    NO_RIGHT = 4
    NOT_FOUND = 5
    REFUSED = 6
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.DONE: "done; what was asked about is ready, or able",
    Exit.NOT_READY: "answered, and the answer is no: not ready, not able, or nothing to do",
    Exit.USAGE: "the command line is wrong",
    Exit.UNREACHABLE: "no answer from the cluster: kubeconfig, credentials, network or TLS",
    Exit.NO_RIGHT: "you lack a right; the message names it",
    Exit.NOT_FOUND: "the name, or the kind itself, does not exist in this cluster",
    Exit.REFUSED: "the API server refused the change, or it was not carried out",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
}


def epilog() -> str:
    """The table for the end of `--help`."""
    return "Exit codes:\n\n" + "\n\n".join(f"{code.value}: {meaning}" for code, meaning in MEANINGS.items())
