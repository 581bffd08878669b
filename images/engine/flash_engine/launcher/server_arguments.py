"""Arguments of vLLM's server that belong to this image, whatever the operator's version. Pure."""

from collections.abc import Mapping, Sequence

from flash_engine.drain import connections
from flash_engine.pod_address import listen_arguments

SHUTDOWN_TIMEOUT = "--shutdown-timeout"

TEARDOWN_SECONDS = 10
"""Left of the time from SIGTERM to SIGKILL for vLLM's own end, which frees tens of gigabytes on each GPU."""


def server_arguments(arguments: Sequence[str], environment: Mapping[str, str], stop_seconds: float) -> tuple[str, ...]:
    """Nothing for other commands than `vllm serve`.

    `stop_seconds` after SIGTERM the engine is killed. Without a time of its own, vLLM aborts its requests at SIGTERM.
    """
    if arguments[:1] != ["serve"]:
        return ()
    return (connections.ARGUMENT, *listen_arguments(environment), *_shutdown_timeout(arguments, stop_seconds))


def _shutdown_timeout(arguments: Sequence[str], stop_seconds: float) -> tuple[str, ...]:
    """The user's own value stays."""
    seconds = int(stop_seconds) - TEARDOWN_SECONDS
    is_given = any(argument.partition("=")[0].replace("_", "-") == SHUTDOWN_TIMEOUT for argument in arguments)
    return (f"{SHUTDOWN_TIMEOUT}={seconds}",) if seconds > 0 and not is_given else ()
