"""What the launcher adds to the operator's arguments."""

import pytest

from flash_engine.drain.connections import ARGUMENT
from flash_engine.launcher.server_arguments import server_arguments


@pytest.mark.parametrize(
    ("arguments", "stop_seconds", "expected"),
    [
        (["serve", "/model"], 25.0, [ARGUMENT, "--shutdown-timeout=15"]),
        (["serve", "/model"], 10.5, [ARGUMENT]),
        (["serve", "/model"], 0.0, [ARGUMENT]),
        (["serve", "/model", "--shutdown-timeout=3"], 25.0, [ARGUMENT]),
        (["serve", "/model", "--shutdown-timeout", "3"], 25.0, [ARGUMENT]),
        (["serve", "/model", "--shutdown_timeout=3"], 25.0, [ARGUMENT]),
        (["bench", "serve"], 25.0, []),
        ([], 25.0, []),
    ],
)
def test_the_server_finishes_its_requests_after_sigterm(
    arguments: list[str], stop_seconds: float, expected: list[str]
) -> None:
    """vLLM aborts them at once unless it is given a time, which ends before the launcher kills it."""
    assert list(server_arguments(arguments, {}, stop_seconds)) == expected
