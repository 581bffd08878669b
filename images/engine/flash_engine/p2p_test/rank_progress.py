"""What a rank tells of itself: one JSON object per line of its standard output, each a sign of life.

{"step": "device", "uuid": "GPU-…", "nccl": "2.30.4"}    it has found its GPU
{"step": "ready", "kernel": "triton"}                    its start is over: the ranks are joined
{"step": "begun", "what": "bf16, 8192 bytes, eager"}     it checks or times something
{"step": "note", "detail": "…"}                          something that the report should say
{"step": "timed", "bytes": 8192, "micros": 9.1}          of one all-reduce
{"step": "wrong" | "refused" | "failed", "detail": "…"}  its end: wrong data; NCCL or the driver refuses; an error
{"step": "done"}                                         its end: all is well
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flash_engine.p2p_test.payload import TIMED_BYTES

ENDS = ("wrong", "refused", "failed", "done")
_DETAIL_LIMIT = 500
_MICROS_LIMIT = 1e9


@dataclass(frozen=True)
class Account:
    """All that one rank has told so far."""

    gpu: str | None = None
    nccl: str | None = None
    ready: bool = False
    kernel: str = ""
    doing: str = "its start"
    notes: tuple[str, ...] = ()
    micros: Mapping[int, float] = field(default_factory=dict)
    end: str | None = None
    """One of ENDS."""
    detail: str = ""

    def after(self, line: str) -> "Account | None":
        """None for a line that says nothing: libraries print too, and that is no progress."""
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return self._with(told) if isinstance(told, dict) else None

    def _with(self, told: dict[str, Any]) -> "Account | None":
        step = told.get("step")
        if step in ENDS:
            return replace(self, end=step, detail=_text(told, "detail"))
        match step:
            case "device":
                return replace(self, gpu=_text(told, "uuid") or None, nccl=_text(told, "nccl") or None)
            case "ready":
                return replace(self, ready=True, kernel=_text(told, "kernel"), doing="its first step")
            case "begun":
                return replace(self, doing=_text(told, "what"))
            case "note":
                return replace(self, notes=(*self.notes, _text(told, "detail")))
        return self._timed(told) if step == "timed" else None

    def _timed(self, told: dict[str, Any]) -> "Account | None":
        size, micros = told.get("bytes"), told.get("micros")
        if size not in TIMED_BYTES or not isinstance(micros, int | float) or not 0 <= micros < _MICROS_LIMIT:
            return None
        return replace(self, micros={**self.micros, size: float(micros)})


def _text(told: dict[str, Any], name: str) -> str:
    return " ".join(str(told.get(name) or "").split())[:_DETAIL_LIMIT]
