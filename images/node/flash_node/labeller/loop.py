"""The labeller's loop: reads the machine, patches the node's labels if they differ, and emits events for warnings.

No failure of hardware or of the API server ends the loop. Values that could not be read leave their labels unchanged
(`flash_node.labels`), because drivers are reloaded and cards are reset. A reading with some failed calls is repeated
immediately, because calls fail occasionally, and each failure is reported.
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
"""A call into the driver of a faulty card may never return."""

RETRY_SECONDS = 2.0
ATTEMPTS = 5


class NodeApi(Protocol):
    """The requests that the loop makes to the cluster."""

    def read(self) -> NodeState: ...
    def patch(self, body: dict[str, object]) -> None: ...
    def emit_event(self, kind: str, reason: str, message: str) -> None: ...


class LabelLoop:
    """Keeps the labels of one node up to date."""

    def __init__(
        self,
        node: NodeApi,
        read: Callable[[], NodeDump],
        *,
        reading_seconds: float = READING_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._node = node
        self._read = read
        self._reading_seconds = reading_seconds
        self._retry_seconds = retry_seconds
        self._reading: _BackgroundReading | None = None
        self._emitted: frozenset[str] = frozenset()

    def run_once(self) -> bool:
        """Read and publish once. Returns whether the labels now match what is known about the machine."""
        assessment = assess(self._read_with_retry())
        self._emit_warnings(assessment)
        try:
            return self._publish(assessment)
        except ClusterError as error:
            log.warning("labels not published", error=str(error))
            return False

    def _read_with_retry(self) -> NodeDump:
        first = self._read_once()
        if first.is_empty or not first.faults:
            return first
        time.sleep(self._retry_seconds)
        second = self._read_once()
        return first if second.is_empty or len(second.faults) >= len(first.faults) else second

    def _read_once(self) -> NodeDump:
        """Take one reading. Only one runs at a time: if the last one is stuck, another would be stuck too."""
        reading = self._reading or _BackgroundReading(self._read)
        dump = reading.wait(self._reading_seconds)
        self._reading = reading if dump is None else None
        if dump is None:
            fault = f"NVML did not answer within {self._reading_seconds:g} s: a card may be stuck; see dmesg for Xid"
            return NodeDump(node="", taken_at="", faults=(fault,))
        return dump

    def _publish(self, assessment: Assessment) -> bool:
        for _ in range(ATTEMPTS):
            state = self._node.read()
            patch = patch_for(state, assessment)
            if patch is None:
                return True
            try:
                self._node.patch(patch)
            except ConflictError:
                continue  # the operator or the kubelet has changed the node: read it again
            changed = patch["metadata"].get("labels", {})
            log.info("labels changed", changed=changed, before={name: state.labels.get(name) for name in changed})
            return True
        raise ClusterError(f"the node changed between read and patch {ATTEMPTS} times in a row")

    def _emit_warnings(self, assessment: Assessment) -> None:
        """Emit each warning once, and again only after it has disappeared. Failed events are retried next round."""
        now = frozenset(assessment.warnings)
        emitted = set(now & self._emitted)
        for warning in sorted(now - self._emitted):
            log.warning("gpu links", warning=warning)
            try:
                self._node.emit_event("Warning", "GpuLinks", warning)
                emitted.add(warning)
            except ClusterError as error:
                # The labels matter more than the events.
                log.warning("event not written", error=str(error))
        self._emitted = frozenset(emitted)


class _BackgroundReading:
    """A reading in its own thread, which can be abandoned."""

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
        except Exception as error:  # noqa: BLE001 - nobody would see a thread's exception
            fault = f"reading failed: {type(error).__name__}: {error}"
            self._dump = NodeDump(node="", taken_at="", faults=(fault,))
        self._done.set()
