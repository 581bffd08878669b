"""The error that ends a download attempt."""

from flash_engine.errors import EngineError


class DownloadError(EngineError):
    """The model cannot be downloaded. The text becomes the pod's message in status."""

    remedy: str

    def __init__(self, message: str, remedy: str, *, retryable: bool = False) -> None:
        super().__init__(message, remedy, retryable=retryable)
