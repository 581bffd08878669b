"""Taking the flags of the node that this pod was bound to.

The operator writes them on the pod after the scheduler has bound it, and the kubelet shows them as a file in a
downwardAPI volume: empty until then, replaced by a symlink swap later. An environment variable would be frozen at
container start. No operator, no annotation: then the safe set from the pod template, after a bounded wait, so that
a pod never depends on the operator to start.
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
class HandOver:
    """The flags to use, and the document that tells of them."""

    flags: FlagSet
    effective: EffectiveFlags


def take_flags(
    node_dir: Path, fallback_text: str, *, patience: float, sleep: Callable[[float], None] = time.sleep
) -> HandOver:
    """Wait for the node's flags up to `patience` seconds. Raises BadDocumentError for an unusable fallback."""
    began = time.monotonic()
    fallback = FlagSet.parse_text(fallback_text)
    while True:
        raw, trouble = _read(node_dir / FLAGS_FILE)
        waited = time.monotonic() - began
        if raw:
            return _from_annotation(raw, fallback, waited)
        if waited >= patience:
            asked = trouble or "is the operator running?"
            detail = f"no flags were handed over within {patience:g} s: {asked}"
            return _hand_over(fallback, "fallback", detail, waited)
        sleep(POLL_SECONDS)


def safe_flags(fallback_text: str, incident: Incident) -> HandOver:
    """The safe set, for the rest of a pod's life, after its incident. Raises BadDocumentError."""
    detail = f"{incident.kind} ({incident.signature}) under row {incident.row} at {incident.at}: {incident.detail}"
    return _hand_over(FlagSet.parse_text(fallback_text), "recovery", detail, 0.0)


def _read(path: Path) -> tuple[bytes, str | None]:
    """The file's bytes, none where it is empty or not there yet; and what else keeps it from being read."""
    try:
        return path.read_bytes().strip(), None
    except FileNotFoundError:
        return b"", None
    except OSError as error:
        return b"", f"{path}: {error.strerror}"


def _from_annotation(raw: bytes, fallback: FlagSet, waited: float) -> HandOver:
    """A malformed annotation is never half obeyed, nor waited on: the safe set, and the reason."""
    try:
        flags = FlagSet.parse_text(raw)
    except BadDocumentError as error:
        return _hand_over(fallback, "fallback", f"the annotation could not be read: {error}", waited)
    return _hand_over(flags, "annotation", "handed over by the operator", waited)


def _hand_over(flags: FlagSet, origin: str, detail: str, waited: float) -> HandOver:
    return HandOver(flags, EffectiveFlags(origin, flags, detail, round(waited * 1000)))
