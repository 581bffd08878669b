"""Errors that the user can act on."""


class QuantiserError(Exception):
    """The message says what is wrong, where, and what to do."""


class OtherInputsError(QuantiserError):
    """Existing output was made from other inputs."""


class UnavailableError(QuantiserError):
    """Retryable: for example a hub that does not answer."""
