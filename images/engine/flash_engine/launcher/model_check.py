"""Inspects the checkpoint before the engine starts, so that a bad one fails in seconds with a clear message.

It is the same inspection as `flash-checkpoint inspect`, which reads headers only. The result goes to checkpoint.json
and to the log.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flash_contracts.checkpoint_record import CheckpointFinding, CheckpointRecord
from flash_contracts.download_record import DownloadRecord
from flash_engine.checkpoint.document import to_record
from flash_engine.checkpoint.inspection import Inspection, inspect
from flash_engine.checkpoint.model_findings import Speculation
from flash_engine.checkpoint.origin import ORIGINS, VOLUME, Origin
from flash_engine.checkpoint.source import open_model
from flash_engine.log import Logger

log = Logger("flash.launcher")

REJECTED = 3
"""Exit code for a rejected checkpoint."""

FROM_FOLDER = ("auto", "hf", "safetensors", "fastsafetensors", "mistral", "pt", "npcache")
"""Values of --load-format with which vLLM loads the folder's files. With others, such as dummy, it may need none."""

METHODS: dict[str, Speculation] = {"mtp": "mtp", "deepseek_mtp": "mtp", "dspark": "dspark"}
"""Keyed by `method` of --speculative-config. With other methods, the drafter is a separate checkpoint."""


@dataclass(frozen=True)
class RequestedModel:
    """The model that the engine's arguments name."""

    model: str
    revision: str | None
    speculation: Speculation
    load_format: str = "auto"
    config_path: str | None = None
    """A folder whose config.json replaces the model's."""

    @property
    def is_of_folder(self) -> bool:
        """Whether vLLM reads config.json and the weights from the model's own folder."""
        return self.load_format in FROM_FOLDER and not self.config_path

    @classmethod
    def of(cls, arguments: Sequence[str]) -> "RequestedModel | None":
        """Parse the engine's arguments. None if they name no model, as in `vllm --help`."""
        if len(arguments) < 2 or arguments[0] != "serve" or arguments[1].startswith("-"):  # noqa: PLR2004 - serve MODEL
            return None
        given, _ = _PARSER.parse_known_args(arguments[2:])
        speculation = _speculation(given.speculative_config)
        return cls(arguments[1], given.revision, speculation, given.load_format, given.hf_config_path)


_PARSER = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
_PARSER.add_argument("--revision")
_PARSER.add_argument("--load-format", "--load_format", default="auto")
_PARSER.add_argument("--hf-config-path", "--hf_config_path")
_PARSER.add_argument("--speculative-config", "--speculative_config", "-sc")


def _speculation(config: str | None) -> Speculation:
    try:
        method = json.loads(config or "{}").get("method")
    except (ValueError, AttributeError):
        return "off"  # vLLM reports what is wrong with it
    return METHODS.get(method, "off")


def check_model(arguments: Sequence[str], run_dir: Path, *, strict: bool) -> str | None:
    """Why the checkpoint cannot be served, one sentence per reason; None if it can.

    Raises OSError if the result cannot be written.
    """
    requested = RequestedModel.of(arguments)
    if requested is None or not (strict or requested.is_of_folder):
        return None
    origin = _origin(run_dir)
    found = inspect(
        lambda: open_model(requested.model, requested.revision, origin=origin),
        speculation=requested.speculation,
        any_model=not strict,
    )
    file = run_dir / CheckpointRecord.FILE
    earlier = CheckpointRecord.read(file)
    found = replace(found, findings=(*found.findings, *_moved(found, earlier)))
    to_record(found).write(file)
    _log(found)
    return "; ".join(finding.sentence for finding in found.refusals) or None


def _origin(run_dir: Path) -> Origin:
    """Where the model comes from: flash-fetch's download if there is one, otherwise a volume."""
    download = DownloadRecord.read(run_dir / DownloadRecord.FILE)
    return ORIGINS.get(download.source.partition("://")[0], VOLUME) if download else VOLUME


def _moved(found: Inspection, earlier: CheckpointRecord | None) -> list[CheckpointFinding]:
    """Detects a branch that has moved since this pod's first start: other replicas may now serve another commit."""
    before = earlier.commit if earlier else None
    if not before or not found.commit or before == found.commit:
        return []
    message = f"the revision was {before} when this pod first started, and is {found.commit} now"
    remedy = f"set model.revision to the one you mean, such as {found.commit}"
    return [CheckpointFinding("RevisionMoved", "note", message, remedy, without_plugin="follows it")]


def _log(found: Inspection) -> None:
    layout = found.layout.name if found.layout else None
    log.info("checkpoint inspected", place=found.place, layout=layout, tensors=len(found.tensors))
    for finding in found.findings:
        log.info(
            "checkpoint finding",
            code=finding.code,
            severity=finding.severity,
            message=finding.message,
            remedy=finding.remedy,
        )
