"""What the user can do something about."""


class QuantiserError(Exception):
    """Its message says what is wrong, where, and what to do."""


class OtherInputsError(QuantiserError):
    """What lies there was made from something else."""


class UnavailableError(QuantiserError):
    """It may work a little later: a hub that does not answer."""
