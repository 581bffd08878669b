"""What the operator hands to the gate of one pod: annotations, read through the pod's downwardAPI volume.

Annotations rather than a port of the gate: only who may change pods can take a replica out, the API server keeps
track of it, and a gate that is restarted finds it again. An annotation that is not there is an empty file.
"""

from pathlib import Path

from pydantic import ValidationError

from flash_contracts.engine_pod import QUARANTINE_FILE
from flash_contracts.gate_config import LearnedFloor

FLOOR_FILE = "floor"


def learned_floor(node_dir: Path | None) -> LearnedFloor | None:
    """None while there is none, or none that makes sense: then the fixed floor holds."""
    text = _read(node_dir, FLOOR_FILE)
    try:
        return LearnedFloor.model_validate_json(text) if text else None
    except ValidationError:
        return None


def granted_quarantine(node_dir: Path | None) -> str | None:
    """Which wish to be taken out was granted; a grant of an earlier wish must not take out a replica that is well."""
    return _read(node_dir, QUARANTINE_FILE) or None


def _read(node_dir: Path | None, name: str) -> str:
    try:
        return (node_dir / name).read_text().strip() if node_dir else ""
    except (OSError, ValueError):
        return ""
