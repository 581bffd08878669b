"""Arguments of vLLM's server that this image adds, whatever the operator's version. Pure."""

from collections.abc import Mapping, Sequence

from flash_engine.drain import connections
from flash_engine.pod_address import listen_arguments

SHUTDOWN_TIMEOUT = "--shutdown-timeout"

TEARDOWN_SECONDS = 10
"""Reserved, of the time from SIGTERM to SIGKILL, for vLLM's exit, which frees tens of gigabytes on each GPU."""


def server_arguments(arguments: Sequence[str], environment: Mapping[str, str], stop_seconds: float) -> tuple[str, ...]:
    """The arguments for `vllm serve`; none for other commands.

    The engine is killed `stop_seconds` after SIGTERM. Without its own timeout, vLLM aborts its requests at SIGTERM.
    """
    if arguments[:1] != ["serve"]:
        return ()
    return (connections.ARGUMENT, *listen_arguments(environment), *_shutdown_timeout(arguments, stop_seconds))


def _shutdown_timeout(arguments: Sequence[str], stop_seconds: float) -> tuple[str, ...]:
    """The timeout, unless the user has set one."""
    seconds = int(stop_seconds) - TEARDOWN_SECONDS
    is_given = any(argument.partition("=")[0].replace("_", "-") == SHUTDOWN_TIMEOUT for argument in arguments)
    return (f"{SHUTDOWN_TIMEOUT}={seconds}",) if seconds > 0 and not is_given else ()
