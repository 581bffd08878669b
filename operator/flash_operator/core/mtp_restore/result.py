"""Reads the result of the restore Job from its pods."""

from flash_contracts.restore_result import RestoreResult
from flash_operator.core.observed.kube import termination_message
from flash_operator.core.observed.snapshot import RawObject


def last_result(pods: tuple[RawObject, ...]) -> RestoreResult | None:
    """The result of the pod that ended last; None while none has ended."""
    message = termination_message(pods)
    return None if message is None else RestoreResult.of_text(message)
