"""The output of a process with the time of each line, and the phases of a start that follow from it."""

import re
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path

PHASES = {
    "checkpoint inspected": re.compile(r"checkpoint inspected"),
    "engine started": re.compile(r"starting the engine"),
    "plugin active": re.compile(r"flash plugin is active"),
    "loading begins": re.compile(r"Starting to load model"),
    "model loaded": re.compile(r"Loading weights took"),
    "drafter loads": re.compile(r"Loading drafter model|MTP draft model loaded"),
    "weights in place": re.compile(r"Model loading took"),
    "KV cache sized": re.compile(r"KV cache size"),
    "graphs begin": re.compile(r"Capturing CUDA graph"),
    "graphs done": re.compile(r"Graph capturing finished"),
    "engine ready": re.compile(r"init engine .* took"),
    "server ready": re.compile(r"Application startup complete"),
}
"""Log lines of vLLM 0.26 to 0.33 and of our launcher."""

Line = tuple[float, str]


def phases(lines: Iterable[Line]) -> dict[str, float]:
    """Seconds to the first line of each phase."""
    found: dict[str, float] = {}
    for seconds, line in lines:
        for name, words in PHASES.items():
            if name not in found and words.search(line):
                found[name] = round(seconds, 1)
    return found


class ProcessLog:
    """A thread that writes a process's output into a file, with the seconds of each line."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.lines: list[Line] = []
        self._began = time.monotonic()
        self._process, self._path = process, path
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe, self._path.open("w") as log:
            for raw in pipe:
                seconds, line = time.monotonic() - self._began, raw.decode(errors="replace").rstrip("\n")
                self.lines.append((seconds, line))
                log.write(f"{seconds:8.2f} {line}\n")
                log.flush()

    def close(self) -> None:
        """Reads what a killed process left in the pipe, without waiting for a grandchild that holds it open."""
        self._thread.join(5)
