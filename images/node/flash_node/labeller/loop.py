"""Rounds: read the machine, compare with the node, patch the difference, tell what is wrong.

Nothing that hardware or an API server does ends them. One reading that fails changes no label, for drivers are
reloaded; after the second in a row nothing is known of the cards any more, and the labels say so. A reading of which
a part fails is taken again at once, for calls fail now and then, and a tested verdict would go with one that did.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from flash_node.assessment import Assessment, assess
from flash_node.dump import NodeDump
from flash_node.labeller.cluster import ClusterError, ConflictError
from flash_node.labels import NodeState, patch_for

log = structlog.get_logger("flash.labeller")

READING_SECONDS = 30.0
"""A call into a sick card's driver may never return."""

AGAIN_SECONDS = 2.0
PATIENCE = 2
ATTEMPTS = 5


class Node(Protocol):
    """What the rounds need of the cluster."""

    def read(self) -> NodeState: ...
    def patch(self, body: dict[str, object]) -> None: ...
    def tell(self, kind: str, reason: str, message: str) -> None: ...


class Rounds:
    """One node's. `look` is one round, and returns whether the labels now say what the machine says."""

    def __init__(
        self,
        node: Node,
        read: Callable[[], NodeDump],
        *,
        reading_seconds: float = READING_SECONDS,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self._node = node
        self._read = read
        self._reading_seconds = reading_seconds
        self._again_seconds = again_seconds
        self._reading: _Reading | None = None
        self._void_readings = 0
        self._told: frozenset[str] = frozenset()

    def look(self) -> bool:
        dump = self._best_of_two()
        self._void_readings = self._void_readings + 1 if dump.is_void else 0
        found = assess(dump)
        self._tell(found)
        if 0 < self._void_readings < PATIENCE:
            log.warning("nothing was read, and the labels stay for one more round", warnings=found.warnings)
            return False
        try:
            return self._publish(found)
        except ClusterError as error:
            log.warning("labels not published", error=str(error))
            return False

    def _best_of_two(self) -> NodeDump:
        first = self._take()
        if first.is_void or not first.faults:
            return first
        time.sleep(self._again_seconds)
        second = self._take()
        return first if second.is_void or len(second.faults) >= len(first.faults) else second

    def _take(self) -> NodeDump:
        """One reading at a time: where the last is stuck, another would be too."""
        reading = self._reading or _Reading(self._read)
        dump = reading.wait(self._reading_seconds)
        self._reading = reading if dump is None else None
        if dump is None:
            fault = f"NVML has not answered for {self._reading_seconds:g} s: a card may be stuck; see dmesg for Xid"
            return NodeDump(node="", taken_at="", faults=(fault,))
        return dump

    def _publish(self, found: Assessment) -> bool:
        for _ in range(ATTEMPTS):
            state = self._node.read()
            patch = patch_for(state, found)
            if patch is None:
                return True
            try:
                self._node.patch(patch)
            except ConflictError:
                continue  # the operator wrote a verdict, or a kubelet its node: look again
            changed = patch["metadata"].get("labels", {})
            log.info("labels", changed=changed, before={name: state.labels.get(name) for name in changed})
            return True
        raise ClusterError(f"the node was changed by others {ATTEMPTS} times in a row")

    def _tell(self, found: Assessment) -> None:
        """Each warning once, until it was gone in between. What could not be told is told in the next round."""
        now = frozenset(found.warnings)
        told = set(now & self._told)
        for warning in sorted(now - self._told):
            log.warning("links", warning=warning)
            try:
                self._node.tell("Warning", "GpuLinks", warning)
                told.add(warning)
            except ClusterError as error:
                # The labels are worth more than that somebody is told of them.
                log.warning("event not written", error=str(error))
        self._told = frozenset(told)


class _Reading:
    """A reading in a thread of its own, which may be left behind."""

    def __init__(self, read: Callable[[], NodeDump]) -> None:
        self._dump: NodeDump | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, args=(read,), name="reading", daemon=True).start()

    def wait(self, seconds: float) -> NodeDump | None:
        self._done.wait(seconds)
        return self._dump if self._done.is_set() else None

    def _run(self, read: Callable[[], NodeDump]) -> None:
        try:
            self._dump = read()
        except Exception as error:  # noqa: BLE001 - a thread's exception would be nobody's
            fault = f"reading failed: {type(error).__name__}: {error}"
            self._dump = NodeDump(node="", taken_at="", faults=(fault,))
        self._done.set()
