"""For how long replicas have been ready, by the operator's own clock.

The time in a pod's condition is its node's, whose clock may be wrong.
"""

import time
from collections.abc import Callable, Iterable

from flash_operator.core.observed.kube import is_ready, uid_of
from flash_operator.core.observed.raw import RawObject
from flash_operator.runtime.keys import FlashKey


class ReadyTimes:
    """Remembers when each replica was first seen ready; anew once it was seen otherwise."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[FlashKey, dict[str, float]] = {}
        """By pod uid."""

    def seconds(self, key: FlashKey, pods: Iterable[RawObject]) -> dict[str, float]:
        """By pod uid, of the pods that are ready. Those of earlier calls that are missing now are forgotten."""
        now = self._clock()
        before = self._since.get(key, {})
        ready = [uid for pod in pods if is_ready(pod) and (uid := uid_of(pod))]
        self._since[key] = {uid: before.get(uid, now) for uid in ready}
        return {uid: now - since for uid, since in self._since[key].items()}

    def forget(self, key: FlashKey) -> None:
        self._since.pop(key, None)
