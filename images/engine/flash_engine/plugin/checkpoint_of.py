"""Inspects the checkpoint that vLLM is about to load, once per process."""

from functools import lru_cache
from typing import Any

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_engine.checkpoint.inspection import Inspection, inspect
from flash_engine.checkpoint.model_findings import Speculation
from flash_engine.checkpoint.source import open_model


class ModelRejectedError(ValueError):
    """The checkpoint cannot be served as configured; the message names tensors and remedy. Ends vLLM's start."""

    def __init__(self, findings: tuple[CheckpointFinding, ...]) -> None:
        super().__init__(f"ModelRejected: {'; '.join(finding.sentence for finding in findings)}")
        self.findings = findings


def checkpoint_of(model_config: Any, speculation: Speculation) -> Inspection:
    """`model_config` is vLLM's. Raises ModelRejectedError."""
    found = _inspect(str(model_config.model), model_config.revision, speculation)
    if found.refusals:
        raise ModelRejectedError(found.refusals)
    return found


@lru_cache(maxsize=8)
def _inspect(model: str, revision: str | None, speculation: Speculation) -> Inspection:
    return inspect(lambda: open_model(model, revision), speculation=speculation)
