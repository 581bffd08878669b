"""The result of the Job that restores the MTP head, from its pods."""

from flash_contracts.restore_result import RestoreResult
from flash_operator.core.observed.snapshot import RawObject


def last_result(pods: tuple[RawObject, ...]) -> RestoreResult | None:
    """Of the pod that ended last; None while none has."""
    ended = [
        (str(terminated.get("finishedAt", "")), terminated)
        for pod in pods
        for container in pod.get("status", {}).get("containerStatuses", [])
        if (terminated := container.get("state", {}).get("terminated"))
    ]
    if not ended:
        return None
    _, last = max(ended, key=lambda found: found[0])
    return RestoreResult.of_text(last.get("message") or f"exit code {last.get('exitCode')}, {last.get('reason', '')}")
