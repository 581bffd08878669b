"""One run of the engine: its process and its output."""

import os
import selectors
import subprocess
import time
from collections.abc import Sequence

from flash_engine.launcher.log_tail import LogTail
from flash_engine.launcher.progress import Progress
from flash_engine.launcher.secret_filter import SecretFilter
from flash_engine.processes import Family

STDOUT, STDERR = 1, 2


class EngineRun:
    """Passes a process's output through, without the secrets that it was started with, and observes it."""

    def __init__(self, process: subprocess.Popen[bytes], family: Family, secrets: Sequence[str] = ()) -> None:
        self.process = process
        self.family = family
        self.last_lines = LogTail(secrets)
        self.progress = Progress(time.monotonic())
        self._filters = {descriptor: SecretFilter(secrets) for descriptor in (STDOUT, STDERR)}
        self._pipes = selectors.DefaultSelector()
        for pipe, own in ((process.stdout, STDOUT), (process.stderr, STDERR)):
            if pipe is not None:
                self._pipes.register(pipe, selectors.EVENT_READ, own)

    def pass_output(self, patience: float) -> bool:
        """Pass on available output. Returns False if none arrived within `patience` seconds."""
        ready = self._pipes.select(patience)
        for key, _ in ready:
            chunk = os.read(key.fd, 65536)
            if not chunk:
                self._pipes.unregister(key.fileobj)
            self.progress.observe(self.last_lines.feed(key.data, chunk), time.monotonic())
            _write_all(key.data, self._filters[key.data].feed(chunk))
        return bool(ready)

    def close(self) -> None:
        for descriptor, passing in self._filters.items():
            _write_all(descriptor, passing.rest())
        self._pipes.close()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def _write_all(descriptor: int, chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(descriptor, chunk) :]
