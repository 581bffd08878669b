"""What ends a command early. Each message is one sentence for the user: what is wrong, where, and what to do."""

from flashctl.exits import Exit


class CommandError(Exception):
    """Ends the command with this message on stderr and this exit code."""

    exit = Exit.NOT_READY


class UsageError(CommandError):
    """Arguments that contradict each other or cannot be read."""

    exit = Exit.USAGE


class UnreachableError(CommandError):
    """No usable answer: the kubeconfig, the credentials, the network or TLS."""

    exit = Exit.UNREACHABLE


class NoRightError(CommandError):
    """The API server's authorizer said no."""

    exit = Exit.NO_RIGHT


class NotFoundError(CommandError):
    """The object or its kind does not exist."""

    exit = Exit.NOT_FOUND


class RefusedError(CommandError):
    """The API server did not take a change: invalid, conflicting, or against a policy."""

    exit = Exit.REFUSED

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        """HTTP's status: 409 for an object that changed meanwhile, 422 for an invalid one."""
