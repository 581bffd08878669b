"""How far an engine has come, by what it says.

vLLM's words as of 0.32 and 0.33: distributed/device_communicators/pynccl.py, model_executor/model_loader,
v1/core/kv_cache_utils.py, v1/worker/gpu_model_runner.py. Two lines are said over and over by an engine that waits, and
are no sign of life: vLLM's shm_broadcast.py speaks once a minute of a hang as well as of a long compilation.
"""

import re
from collections.abc import Iterable
from enum import IntEnum

from flash_contracts.engine_record import PLUGIN_LINE

LAST_LINE_LIMIT = 200


class Milestone(IntEnum):
    """The stations of a start, in their order."""

    NOTHING = 0
    NCCL = 1
    WEIGHTS = 2
    KV_CACHE = 3
    CAPTURING = 4
    READY = 5

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS = {
    Milestone.NOTHING: "before NCCL was named",
    Milestone.NCCL: "after NCCL was named",
    Milestone.WEIGHTS: "after the weights were loaded",
    Milestone.KV_CACHE: "after the KV cache was sized",
    Milestone.CAPTURING: "while CUDA graphs are captured",
    Milestone.READY: "after the start",
}

_SAID = {
    Milestone.NCCL: re.compile(r"vLLM is using nccl=="),
    Milestone.WEIGHTS: re.compile(r"Loading weights took|Model loading took"),
    Milestone.KV_CACHE: re.compile(r"KV cache size"),
    Milestone.CAPTURING: re.compile(r"Capturing CUDA graph"),
    # An access log tells of it too, where the server's own line is switched off: the gate asks every second.
    Milestone.READY: re.compile(r"Application startup complete|\"GET /health HTTP/[\d.]+\" 200"),
}

WAITING = re.compile(r"No available shared memory broadcast block|Waiting for \d+ local, \d+ remote core engine proc")


class Progress:
    """Fed with what one run of the engine says; times are seconds of one clock, whichever."""

    def __init__(self, started: float) -> None:
        self.milestone = Milestone.NOTHING
        self.said_at = started
        """When it last said something that is no waiting."""
        self.last_line = ""
        self.plugin: str | None = None
        """What our vLLM plugin said of itself."""

    def hear(self, lines: Iterable[str], at: float) -> None:
        for line in lines:
            self.last_line = line[:LAST_LINE_LIMIT]
            if PLUGIN_LINE in line:
                self.plugin = self.last_line
            if WAITING.search(line):
                continue
            self.said_at = at
            for milestone, said in _SAID.items():
                if milestone > self.milestone and said.search(line):
                    self.milestone = milestone
