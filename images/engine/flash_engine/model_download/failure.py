"""The errors that end a download attempt."""

from collections.abc import Mapping

from flash_contracts.download_record import format_duration
from flash_engine.errors import EngineError
from flash_engine.throttling import THROTTLED, requested_wait


class DownloadError(EngineError):
    """The model cannot be downloaded. The text becomes the pod's message in the status."""

    remedy: str
    wait_seconds: float | None = None
    """How long the server asks to wait before the next request; None if it does not ask."""

    def __init__(self, message: str, remedy: str, *, retryable: bool = False) -> None:
        super().__init__(message, remedy, retryable=retryable)


class ThrottledError(DownloadError):
    """The server limits the rate of this client."""

    def __init__(self, message: str, remedy: str, wait_seconds: float | None) -> None:
        super().__init__(message, remedy, retryable=True)
        self.wait_seconds = wait_seconds

    @classmethod
    def of_response(cls, server: str, status: int, headers: Mapping[str, str]) -> "ThrottledError":
        """`headers` must not be case-sensitive, like those of HTTP clients."""
        wait = requested_wait(headers)
        problem = "throttles this address or account" if status == THROTTLED else "is overloaded"
        asks = "" if wait is None else f" and asks to wait {format_duration(wait)}"
        return cls(f"{server} {problem}{asks} ({status})", "wait", wait)

    def with_remedy(self, remedy: str) -> "ThrottledError":
        return ThrottledError(self.message, remedy, self.wait_seconds)
