"""Looking at the checkpoint before the engine is started: a bad one ends a start in seconds, with a sentence.

The same look as `flash-checkpoint inspect`, by headers alone. What it found goes to checkpoint.json and into the log.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flash_contracts.document import read_json, write_json
from flash_contracts.engine_pod import CHECKPOINT_FILE
from flash_engine.checkpoint.document import to_json
from flash_engine.checkpoint.finding import Finding
from flash_engine.checkpoint.inspection import Inspection, Speculation, inspect
from flash_engine.checkpoint.source import open_model
from flash_engine.log import Logger

log = Logger("flash.launcher")

REJECTED = 3
"""Exit code of a start that ended here."""

METHODS: dict[str, Speculation] = {"mtp": "mtp", "deepseek_mtp": "mtp", "dspark": "dspark"}
"""By `method` of --speculative-config. Of others the drafter is another checkpoint."""


@dataclass(frozen=True)
class Asked:
    """What the engine's arguments say of the checkpoint."""

    model: str
    revision: str | None
    speculation: Speculation

    @classmethod
    def of(cls, arguments: Sequence[str]) -> "Asked | None":
        """None where no model is named among them, as for `vllm --help`."""
        if len(arguments) < 2 or arguments[0] != "serve" or arguments[1].startswith("-"):  # noqa: PLR2004 - serve MODEL
            return None
        given, _ = _PARSER.parse_known_args(arguments[2:])
        return cls(arguments[1], given.revision, _speculation(given.speculative_config))


_PARSER = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
_PARSER.add_argument("--revision")
_PARSER.add_argument("--speculative-config", "--speculative_config", "-sc")


def _speculation(config: str | None) -> Speculation:
    try:
        method = json.loads(config or "{}").get("method")
    except (ValueError, AttributeError):
        return "off"  # vLLM itself says what is wrong with it
    return METHODS.get(method, "off")


def check_model(arguments: Sequence[str], run_dir: Path, *, strict: bool) -> str | None:
    """Why the checkpoint cannot be served, in a sentence for each reason; None where it can.

    Raises OSError where what was found cannot be written.
    """
    asked = Asked.of(arguments)
    if asked is None:
        return None
    found = inspect(
        lambda: open_model(asked.model, asked.revision), speculation=asked.speculation, any_model=not strict
    )
    earlier = read_json(run_dir / CHECKPOINT_FILE) or {}
    found = replace(found, findings=(*found.findings, *_moved(found, earlier)))
    write_json(run_dir / CHECKPOINT_FILE, to_json(found))
    _tell(found)
    return "; ".join(finding.sentence for finding in found.refusals) or None


def _moved(found: Inspection, earlier: dict[str, Any]) -> list[Finding]:
    """A branch that moved since this pod first looked: other replicas may serve another model by now."""
    before = earlier.get("commit")
    if not before or not found.commit or before == found.commit:
        return []
    told = f"the revision was {before} when this pod first started, and is {found.commit} now"
    remedy = f"set model.revision to the one you mean, such as {found.commit}"
    return [Finding("RevisionMoved", "note", told, remedy, without_plugin="follows it")]


def _tell(found: Inspection) -> None:
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
