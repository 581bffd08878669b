"""Reads what the operator passes to one pod's gate: annotations, mounted through the downwardAPI volume.

Annotations have advantages over a port of the gate: only clients that may change pods can quarantine a replica, the API
server records it, and a restarted gate finds it again. A missing annotation is an empty file.
"""

from pathlib import Path

from pydantic import ValidationError

from flash_contracts.engine_pod import QUARANTINE_FILE
from flash_contracts.gate_config import PodFloor

FLOOR_FILE = "floor"


def pod_floor(node_dir: Path | None) -> PodFloor | None:
    """None if it is missing or invalid: then the fixed floor applies, and one measurement decides."""
    text = _read(node_dir, FLOOR_FILE)
    try:
        return PodFloor.model_validate_json(text) if text else None
    except ValidationError:
        return None


def granted_quarantine(node_dir: Path | None) -> str | None:
    """Which quarantine request was granted: an earlier grant must not affect a replica that has recovered."""
    return _read(node_dir, QUARANTINE_FILE) or None


def _read(node_dir: Path | None, name: str) -> str:
    try:
        return (node_dir / name).read_text().strip() if node_dir else ""
    except (OSError, ValueError):
        return ""
