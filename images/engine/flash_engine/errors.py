"""The base class of the errors that processes in an engine pod report to users."""


class EngineError(Exception):
    """An error with a message for users, and the remedy if one is known."""

    def __init__(self, message: str, remedy: str | None = None, *, retryable: bool = False) -> None:
        """`retryable`: trying again later may succeed without any change."""
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy
        self.retryable = retryable

    def __str__(self) -> str:
        """The sentence for logs and status: what is wrong, and what to do."""
        return f"{self.message}: {self.remedy}" if self.remedy else self.message
