"""Collects tokens on the CPU and writes them to the files of a capture (`flash_contracts.mtp_capture`)."""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from flash_contracts.mtp_capture import FORMAT, FORMAT_KEY, INPUT, RECORDER_KEY, REQUEST

ROWS: Final = 65536
"""Tokens in a file: 512 MiB at a hidden size of 4096."""

SECONDS: Final = 5.0
"""Tokens are written after this time at the latest, so that a crash of the engine loses little."""

READABLE: Final = 0o644
"""safetensors creates files that only their owner may read, but the quantiser may run as another user."""


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of one request in a batch."""

    request: str
    first: int
    """Position of the first token in its request."""
    tokens: int


@dataclass
class Recorder:
    """Records each token once, with the number of its request.

    The engine computes a preempted request again from its first token: positions already recorded are skipped.
    """

    folder: Path
    most: int
    """Stops recording after this many tokens."""
    metadata: dict[str, str] = field(default_factory=dict)
    rows: int = ROWS
    seconds: float = SECONDS
    recorded: int = 0
    _numbers: dict[str, int] = field(default_factory=dict)
    _position: dict[str, int] = field(default_factory=dict)
    """By request: the next position to record."""
    _files: int = 0
    _waiting: list[tuple[Any, Any]] = field(default_factory=list)
    _written: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._name = f"{socket.gethostname()}-{os.getpid()}"

    def record(self, x: Any, pieces: Sequence[Piece]) -> None:
        """Record `x` [n or more, hidden] of any floating type as BF16; its rows are those of the pieces in order."""
        begin = 0
        for piece in pieces:
            self._record_piece(x[begin : begin + piece.tokens], piece)
            begin += piece.tokens
        late = time.monotonic() - self._written >= self.seconds
        if late or self.recorded == self.most or sum(len(rows) for rows, _ in self._waiting) >= self.rows:
            self.flush()

    def _record_piece(self, x: Any, piece: Piece) -> None:
        known = self._position.get(piece.request, 0)
        self._position[piece.request] = max(known, piece.first + piece.tokens)
        fresh = x[max(0, known - piece.first) :][: self.most - self.recorded]
        if len(fresh):
            rows = fresh.detach().to("cpu", torch.bfloat16, copy=True)
            number = self._numbers.setdefault(piece.request, len(self._numbers))
            self._waiting.append((rows, torch.full((len(rows),), number, dtype=torch.int32)))
            self.recorded += len(rows)

    def flush(self) -> None:
        """Write the waiting tokens to a file, atomically. Raises OSError."""
        if self._waiting:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"capture-{self._name}-{self._files:05}.safetensors"
            unfinished = path.with_name(f".{path.name}")
            rows, requests = zip(*self._waiting, strict=True)
            metadata = {FORMAT_KEY: FORMAT, RECORDER_KEY: self._name, **self.metadata}
            save_file({INPUT: torch.cat(rows), REQUEST: torch.cat(requests)}, unfinished, metadata=metadata)
            unfinished.chmod(READABLE)
            unfinished.replace(path)
            self._files += 1
            self._waiting.clear()
        self._written = time.monotonic()
