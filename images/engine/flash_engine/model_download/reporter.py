"""Writes delivery.json once a second during a download, with the bytes that are on disk."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from flash_contracts.document import now
from flash_contracts.download_record import DownloadRecord, Phase
from flash_engine.model_cache import PROGRESS_SUFFIX, ModelSnapshot

PUBLISH_SECONDS = 1.0
RATE_SECONDS = 30.0


class TransferRate:
    """Computes bytes per second over the last RATE_SECONDS."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, at: float, stored: int) -> float | None:
        """Adds a sample. None until there are two to compare."""
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
        self.record = DownloadRecord(source=source, failure=earlier.failure, attempts=earlier.attempts + 1)
        """Keeps the last attempt's failure until this one makes progress; otherwise it would vanish too soon."""
        self._shared: ModelSnapshot | None = None
        self._lock = threading.Lock()
        self.publish("Resolving", message="listing the model's files")

    def publish(self, phase: Phase | None = None, **changes: Any) -> None:
        """Changes fields of the record and writes it. Raises OSError if it cannot be written."""
        with self._lock:
            self.record = replace(self.record, phase=phase or self.record.phase, at=now(), **changes)
            self.record.write(self._file)
            if self._shared is not None:
                # Best effort: if the cache's volume is full, that must still reach our own record.
                with suppress(OSError):
                    self.record.write(self._shared.sidecar(PROGRESS_SUFFIX))

    def share_with_waiting(self, model: ModelSnapshot) -> None:
        """From now on also writes the record next to the snapshot, for processes that wait for it."""
        self._shared = model

    @contextmanager
    def counting(self, stored_bytes: Callable[[], int]) -> Iterator[None]:
        """Updates the record every PUBLISH_SECONDS while the context is active."""
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
