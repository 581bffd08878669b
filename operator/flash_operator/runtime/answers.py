"""Remembers what the API server made of the objects that were applied.

Webhooks and the server itself store other values than they were given. Without this memory such a child would look
changed for ever, and would be applied again every few seconds. It is lost with the process; the next one applies such
a child once.
"""

from collections.abc import Iterable

from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.drift import hash_of, stored_content
from flash_operator.runtime.keys import FlashKey


class Answers:
    """The last answer for each child of each deployment."""

    def __init__(self) -> None:
        self._stored: dict[FlashKey, dict[tuple[str, str], tuple[str, str]]] = {}

    def remember(self, flash: FlashDeployment, applied: RawObject, answer: RawObject) -> None:
        """`answer` is what the server stored for `applied`."""
        children = self._stored.setdefault(FlashKey(flash.namespace, flash.name), {})
        children[applied["kind"], applied["metadata"]["name"]] = (hash_of(applied), stored_content(answer))

    def forget(self, key: FlashKey) -> None:
        """The deployment is gone."""
        self._stored.pop(key, None)

    def settled(self, key: FlashKey, live: Iterable[RawObject]) -> frozenset[tuple[str, str, str]]:
        """Kind, name and hash of the live objects that are still what the server answered."""
        known = self._stored.get(key, {})
        found = set()
        for child in live:
            kind, name = child["kind"], child["metadata"]["name"]
            content, stored = known.get((kind, name), ("", ""))
            if content and stored == stored_content(child):
                found.add((kind, name, content))
        return frozenset(found)
