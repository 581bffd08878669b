"""Why a model did not come."""


class DownloadError(Exception):
    """What is wrong and where, and what to do."""

    def __init__(self, message: str, remedy: str, *, passes: bool = False) -> None:
        """`passes`: it may be over in a moment, without anybody's help."""
        super().__init__(f"{message}: {remedy}")
        self.passes = passes
        self.message = message
        self.remedy = remedy
