"""Remembers what the API server made of the objects that were applied.

Webhooks and the server itself store other values than they were given. Without this memory such a child would look
changed for ever, and would be applied again every few seconds. It is lost with the process; the next one applies such
a child once.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.drift import hash_of, stored_content
from flash_operator.runtime.keys import FlashKey


@dataclass
class _Answer:
    """What the server answered to an apply."""

    applied: str
    """The hash of what was applied."""
    stored: str
    """The digest of what the server made of it."""
    version: str | None
    """The last resourceVersion with that content, so that the same object is not digested at every look."""


class Answers:
    """The last answer for each child of each deployment."""

    def __init__(self) -> None:
        self._known: dict[FlashKey, dict[tuple[str, str], _Answer]] = {}

    def remember(self, flash: FlashDeployment, applied: RawObject, answer: RawObject) -> None:
        """`answer` is what the server stored for `applied`."""
        children = self._known.setdefault(FlashKey(flash.namespace, flash.name), {})
        name = applied["metadata"]["name"]
        children[applied["kind"], name] = _Answer(hash_of(applied), stored_content(answer), _version_of(answer))

    def forget(self, key: FlashKey) -> None:
        """The deployment is gone."""
        self._known.pop(key, None)

    def settled(self, key: FlashKey, live: Iterable[RawObject]) -> frozenset[tuple[str, str, str]]:
        """Kind, name and hash of the live objects that are still what the server answered."""
        known = self._known.get(key, {})
        found = set()
        for child in live:
            kind, name = child["kind"], child["metadata"]["name"]
            answer = known.get((kind, name))
            if answer is not None and answer.applied and _is_still(answer, child):
                found.add((kind, name, answer.applied))
        return frozenset(found)


def _is_still(answer: _Answer, live: RawObject) -> bool:
    version = _version_of(live)
    if version is not None and version == answer.version:
        return True
    if answer.stored != stored_content(live):
        return False
    answer.version = version
    return True


def _version_of(raw: RawObject) -> str | None:
    version: str | None = raw["metadata"].get("resourceVersion")
    return version
