"""Tracks how far an engine's start has come, by its log lines.

The lines are those of vLLM 0.32 and 0.33: distributed/device_communicators/pynccl.py, model_executor/model_loader,
v1/core/kv_cache_utils.py, v1/worker/gpu_model_runner.py. Two lines are repeated by a waiting engine and do not count as
activity: vLLM's shm_broadcast.py logs once a minute, in a hang as well as in a long compilation.
"""

import re
from collections.abc import Iterable
from enum import IntEnum

from flash_contracts.engine_record import PLUGIN_LINE

LAST_LINE_LIMIT = 200


class Milestone(IntEnum):
    """The steps of a start, in order."""

    NOTHING = 0
    NCCL = 1
    WEIGHTS = 2
    KV_CACHE = 3
    CAPTURING = 4
    READY = 5

    @property
    def description(self) -> str:
        return _DESCRIPTIONS[self]


_DESCRIPTIONS = {
    Milestone.NOTHING: "before NCCL was initialised",
    Milestone.NCCL: "after NCCL was initialised",
    Milestone.WEIGHTS: "after the weights were loaded",
    Milestone.KV_CACHE: "after the KV cache was sized",
    Milestone.CAPTURING: "while CUDA graphs were captured",
    Milestone.READY: "after the start",
}

_LOG_LINES = {
    Milestone.NCCL: re.compile(r"vLLM is using nccl=="),
    Milestone.WEIGHTS: re.compile(r"Loading weights took|Model loading took"),
    Milestone.KV_CACHE: re.compile(r"KV cache size"),
    Milestone.CAPTURING: re.compile(r"Capturing CUDA graph"),
    # If the server's own line is disabled, the access log shows it: the gate asks every second.
    Milestone.READY: re.compile(r"Application startup complete|\"GET /health HTTP/[\d.]+\" 200"),
}

WAITING = re.compile(r"No available shared memory broadcast block|Waiting for \d+ local, \d+ remote core engine proc")


class Progress:
    """Follows the log lines of one run of the engine. Times are seconds of any one clock."""

    def __init__(self, started: float) -> None:
        self.milestone = Milestone.NOTHING
        self.logged_at = started
        """When it last logged something, apart from lines about waiting."""
        self.last_line = ""
        self.plugin: str | None = None
        """The line that our vLLM plugin logged."""

    def observe(self, lines: Iterable[str], at: float) -> None:
        for line in lines:
            self.last_line = line[:LAST_LINE_LIMIT]
            if PLUGIN_LINE in line:
                self.plugin = self.last_line
            if WAITING.search(line):
                continue
            self.logged_at = at
            for milestone, pattern in _LOG_LINES.items():
                if milestone > self.milestone and pattern.search(line):
                    self.milestone = milestone
