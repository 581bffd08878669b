"""Waits for the engine flags of the node that this pod was bound to.

The operator writes them into an annotation after the scheduler has bound the pod. The kubelet shows the annotation as a
file in a downwardAPI volume: empty until then, and replaced by a symlink swap. An environment variable would be fixed
at container start. If no annotation arrives in time, the safe flags of the pod template apply, so that a pod never
depends on the operator to start.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flash_contracts.document import BadDocumentError
from flash_contracts.engine_pod import EffectiveFlags
from flash_contracts.engine_record import Incident
from flash_contracts.flags.flag_set import FlagSet

FLAGS_FILE = "engine-flags"
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class PassedFlags:
    """The flags to use, and the document that records them."""

    flags: FlagSet
    effective: EffectiveFlags


def take_flags(
    node_dir: Path, fallback_text: str, *, patience: float, sleep: Callable[[float], None] = time.sleep
) -> PassedFlags:
    """Wait up to `patience` seconds for the node's flags. Raises BadDocumentError for unusable safe flags."""
    began = time.monotonic()
    fallback = FlagSet.parse_text(fallback_text)
    while True:
        raw, problem = _read(node_dir / FLAGS_FILE)
        waited = time.monotonic() - began
        if raw:
            return _from_annotation(raw, fallback, waited)
        if waited >= patience:
            asked = problem or "is the operator running?"
            detail = f"no flags annotation within {patience:g} s: {asked}"
            return _passed(fallback, "fallback", detail, waited)
        sleep(POLL_SECONDS)


def safe_flags(fallback_text: str, incident: Incident) -> PassedFlags:
    """The safe flags, which a pod keeps after an incident. Raises BadDocumentError."""
    detail = f"{incident.kind} ({incident.signature}) under row {incident.row} at {incident.at}: {incident.detail}"
    return _passed(FlagSet.parse_text(fallback_text), "recovery", detail, 0.0)


def _read(path: Path) -> tuple[bytes, str | None]:
    """The file's bytes, empty if it does not exist yet, and the problem if it cannot be read for another reason."""
    try:
        return path.read_bytes().strip(), None
    except FileNotFoundError:
        return b"", None
    except OSError as error:
        return b"", f"{path}: {error.strerror}"


def _from_annotation(raw: bytes, fallback: FlagSet, waited: float) -> PassedFlags:
    """The flags of the annotation; the safe flags, with the reason, if it is malformed."""
    try:
        flags = FlagSet.parse_text(raw)
    except BadDocumentError as error:
        return _passed(fallback, "fallback", f"the annotation could not be read: {error}", waited)
    return _passed(flags, "annotation", "from the operator's annotation", waited)


def _passed(flags: FlagSet, origin: str, detail: str, waited: float) -> PassedFlags:
    return PassedFlags(flags, EffectiveFlags(origin, flags, detail, round(waited * 1000)))
