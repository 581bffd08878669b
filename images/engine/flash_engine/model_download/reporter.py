"""Writes delivery.json once a second during a download, with the bytes that are on disk."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flash_contracts.document import now, timestamp
from flash_contracts.download_record import DownloadRecord, Phase
from flash_engine.model_cache import PROGRESS_SUFFIX, ModelSnapshot
from flash_engine.throttling import LONGEST_WAIT_SECONDS

PUBLISH_SECONDS = 1.0
RATE_SECONDS = 30.0


class TransferRate:
    """Computes bytes per second over the last RATE_SECONDS."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, at: float, stored: int) -> float | None:
        """Add a sample. Returns None until there are two to compare."""
        self._samples.append((at, stored))
        while at - self._samples[0][0] > RATE_SECONDS:
            self._samples.popleft()
        began, before = self._samples[0]
        return max(stored - before, 0) / (at - began) if at > began else None


class ProgressReporter:
    """Owns the download record. `publish` changes and writes it; `counting` updates its byte counts in a thread."""

    def __init__(self, run_dir: Path, source: str) -> None:
        self._file = run_dir / DownloadRecord.FILE
        earlier = DownloadRecord.read(self._file) or DownloadRecord()
        retry_at = earlier.retry_at if earlier.source == source else None
        self.record = DownloadRecord(
            source=source, failure=earlier.failure, attempts=earlier.attempts + 1, retry_at=retry_at
        )
        """It keeps the last attempt's failure until this one makes progress; otherwise it would vanish too soon."""
        self._shared: ModelSnapshot | None = None
        self._lock = threading.Lock()
        self.publish("Resolving", message="listing the model's files")

    def publish(self, phase: Phase | None = None, **changes: Any) -> None:
        """Change fields of the record and write it. Raises OSError if it cannot be written."""
        with self._lock:
            self.record = replace(self.record, phase=phase or self.record.phase, at=now(), **changes)
            self.record.write(self._file)
            if self._shared is not None:
                # Best effort: if the cache's volume is full, our own record must still say so.
                with suppress(OSError):
                    self.record.write(self._shared.sidecar(PROGRESS_SUFFIX))

    def publish_failure(self, failure: str, wait_seconds: float | None) -> None:
        """Publish a failed attempt. `wait_seconds`: how long the server asked to wait before the next one."""
        at = None if wait_seconds is None else timestamp(datetime.now(UTC) + timedelta(seconds=wait_seconds))
        self.publish("Failed", failure=failure, message=failure, bytes_per_second=None, retry_at=at)

    @property
    def seconds_to_wait(self) -> float:
        """How much longer to wait, as the server asked an earlier attempt."""
        try:
            at = datetime.fromisoformat(self.record.retry_at or "")
            seconds = (at - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # not set, or not written by us
            return 0.0
        # Never longer than the longest wait that is accepted: the clock may have been set back.
        return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)

    def share_with_waiting(self, model: ModelSnapshot) -> None:
        """From now on, also write the record next to the snapshot, for processes that wait for it."""
        self._shared = model

    @contextmanager
    def counting(self, stored_bytes: Callable[[], int]) -> Iterator[None]:
        """Update the record every PUBLISH_SECONDS while the context is active."""
        rate, initially, ended = TransferRate(), stored_bytes(), threading.Event()

        def count() -> None:
            self._count(stored_bytes(), rate, initially)
            while not ended.wait(PUBLISH_SECONDS):
                self._count(stored_bytes(), rate, initially)

        thread = threading.Thread(target=count, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _count(self, stored: int, rate: TransferRate, initially: int) -> None:
        bytes_per_second = rate.update(time.monotonic(), stored)
        phase: Phase = "Verifying" if stored >= self.record.total_bytes else "Downloading"
        if self.record.phase == "Unpacking":
            phase = "Unpacking"
        failure = self.record.failure if stored <= initially else None
        self.publish(phase, bytes=stored, bytes_per_second=bytes_per_second, failure=failure)
