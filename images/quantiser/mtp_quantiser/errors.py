"""Errors that the user can act on, and exit codes."""

from typing import Final

FAILED: Final = 1
"""A retry cannot help; the user has to act."""
UNEXPECTED: Final = 70
TRY_LATER: Final = 75
"""EX_SOFTWARE and EX_TEMPFAIL of sysexits.h."""
INTERRUPTED: Final = 130


class QuantiserError(Exception):
    """The message says what is wrong, where, and what to do."""


class OtherInputsError(QuantiserError):
    """Existing output was made from other inputs."""


class UnavailableError(QuantiserError):
    """Retryable: for example a hub that does not answer."""
