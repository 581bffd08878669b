"""What the restoring Job said at its end, as it stands in its termination message.

The quantiser (images/quantiser) may be older or newer than this operator, so reading it never fails.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from flash_operator.core.observed import RawObject


class Figures(BaseModel):
    """Of the matrices that were quantised."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    gptq: int
    rtn: int
    seconds: float
    worst_error: float | None = None


class RestoreResult(BaseModel):
    """One run of `mtp-quantise restore`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: Literal["Restored", "NotNeeded", "AlreadyRestored", "Failed"]
    message: str = ""
    figures: Figures | None = None

    @classmethod
    def parse(cls, text: str) -> "RestoreResult":
        """Anything that is no result is a failure, told with the words that were there instead."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            said = " ".join(text.split())[-500:]
            return cls(state="Failed", message=f"the Job left no result; its last words: {said or 'none'}")


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
    return RestoreResult.parse(last.get("message") or f"exit code {last.get('exitCode')}, {last.get('reason', '')}")
