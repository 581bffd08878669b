"""Keeps delivery.json true while a model comes: once a second, by what is really on the disk."""

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
from flash_engine.model_cache import PROGRESS, StoredModel

PUBLISH_SECONDS = 1.0
RATE_SECONDS = 30.0


class Pace:
    """Bytes per second over the last RATE_SECONDS."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def after(self, at: float, stored: int) -> float | None:
        """None until there are two looks to compare."""
        self._seen.append((at, stored))
        while at - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        return max(stored - before, 0) / (at - began) if at > began else None


class Reporter:
    """Owns the record. `publish` says something new; within `counting` the figures follow the disk by themselves."""

    def __init__(self, run_dir: Path, source: str) -> None:
        self._file = run_dir / DownloadRecord.FILE
        earlier = DownloadRecord.read(self._file) or DownloadRecord()
        self.record = DownloadRecord(source=source, failure=earlier.failure, attempts=earlier.attempts + 1)
        """A failure stays in sight while another attempt only begins: else it would be seen for a second in minutes."""
        self._shared: StoredModel | None = None
        self._lock = threading.Lock()
        self.publish("Resolving", message="asking what there is")

    def publish(self, phase: Phase | None = None, **changes: Any) -> None:
        """Raises OSError where the record cannot be written."""
        with self._lock:
            self.record = replace(self.record, phase=phase or self.record.phase, at=now(), **changes)
            self.record.write(self._file)
            if self._shared is not None:
                # What others are shown is a favour: a volume that is full must not keep us from saying so.
                with suppress(OSError):
                    self.record.write(self._shared.beside(PROGRESS))

    def share(self, model: StoredModel) -> None:
        """From here on others who wait for the same model see this record too."""
        self._shared = model

    @contextmanager
    def counting(self, stored_bytes: Callable[[], int]) -> Iterator[None]:
        """Within it the record follows what is stored of what was to come."""
        pace, began_with, ended = Pace(), stored_bytes(), threading.Event()

        def count() -> None:
            self._count(stored_bytes(), pace, began_with)
            while not ended.wait(PUBLISH_SECONDS):
                self._count(stored_bytes(), pace, began_with)

        thread = threading.Thread(target=count, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _count(self, stored: int, pace: Pace, began_with: int) -> None:
        rate = pace.after(time.monotonic(), stored)
        phase: Phase = "Verifying" if stored >= self.record.total_bytes else "Downloading"
        if self.record.phase == "Unpacking":
            phase = "Unpacking"
        failure = self.record.failure if stored <= began_with else None
        self.publish(phase, bytes=stored, bytes_per_second=rate, failure=failure)
