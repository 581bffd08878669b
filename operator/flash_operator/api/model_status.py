"""`status.model`: what the engines load, where that is not simply `spec.model.source`."""

from typing import Annotated, Literal

from pydantic import Field

from flash_operator.api.api_model import ApiModel


class ModelStatus(ApiModel):
    """The checkpoint with its restored MTP head, and how it came to it (spec.model.restoreMtp)."""

    path: Annotated[str, Field(max_length=600)]
    """What the engines load, once it is there."""
    mtp: Literal["Restoring", "Restored", "Native", "Failed"]
    """Restored: by the Job, or by one before. Native: the checkpoint has its head already. Failed: see message."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """What the Job said, or what it waits for."""
    matrices_gptq: int | None = None
    """Expert matrices quantised by GPTQ."""
    matrices_rounded: int | None = None
    """Expert matrices rounded to nearest: no capture, no tokens for their expert, or GPTQ was no better."""
    worst_error_per_million: int | None = None
    """Worst relative error of a matrix's output on held-out tokens, in millionths; absent without a capture."""
    seconds: int | None = None
    """What the restoration took."""
