"""Reads captures, the calibration data, from disk: `flash_contracts.mtp_capture` describes the files."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from flash_contracts.mtp_capture import FORMAT, FORMAT_KEY, IDS, INPUT, RECORDER_KEY, REQUEST, ROUTER_KEY, WEIGHTS
from mtp_quantiser.checkpoint import opened
from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.layout import MtpShape
from mtp_quantiser.threads import in_threads

CHUNK: Final = 65536
PIECE: Final = 8192
"""Rows that a thread reads at once: 64 MB."""

FILE_NAME: Final = re.compile(r"capture-(?P<recorder>.+)-\d+\.safetensors")
"""Names of files by flash-capture, old and new: each process numbers its files."""

COMPARED_ROWS: Final = 4096
COMPARED_COLUMNS: Final = 128
MOST_EQUAL: Final = 0.9
"""Two sequences with a larger share of equal rows count as the same tokens."""


@dataclass(frozen=True)
class CaptureFile:
    path: Path
    tokens: int
    routed: bool
    """Whether it contains the engine's choice of experts."""
    recorder: str | None
    """The process that numbered the requests; None if the file has no numbers."""
    router: str | None
    """`router_digest` of the serving model, if known."""

    @classmethod
    def open(cls, path: Path, shape: MtpShape) -> "CaptureFile":
        with opened(path) as file:
            metadata = file.metadata() or {}
            if metadata.get(FORMAT_KEY) != FORMAT:
                raise QuantiserError(
                    f"{path} does not have format {FORMAT} in its metadata; capture again with flash-capture"
                )
            names = set(file.keys())
            if INPUT not in names:
                raise QuantiserError(f"{path} has no tensor {INPUT}; capture again with flash-capture")
            part = file.get_slice(INPUT)
            rows = list(part.get_shape())
            if part.get_dtype() != "BF16" or rows[1:] != [shape.hidden]:
                raise QuantiserError(
                    f"{path}: {INPUT} is {part.get_dtype()} {rows}, not BF16 [n, {shape.hidden}]; it was recorded with "
                    "another model"
                )
            recorder = metadata.get(RECORDER_KEY, path.name) if REQUEST in names else None
            return cls(path, rows[0], {IDS, WEIGHTS} <= names, recorder, metadata.get(ROUTER_KEY))

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, rows) in pieces mapped from the file, never all in memory at once."""
        with opened(self.path) as file:
            whole = file.get_slice(INPUT)
            for first in range(0, self.tokens, CHUNK):
                yield first, whole[first : min(first + CHUNK, self.tokens)]

    def piece(self, first: int, device: torch.device) -> Tensor:
        """Up to PIECE rows on the device. Raises QuantiserError if one is not finite."""
        with opened(self.path) as file:
            rows: Tensor = file.get_slice(INPUT)[first : min(first + PIECE, self.tokens)]
        rows = rows.to(device)
        require_finite(self.path, first, rows)
        return rows

    def columns(self) -> int:
        with opened(self.path) as file:
            return int(file.get_slice(INPUT).get_shape()[1])

    def requests(self) -> Tensor:
        """The number of each token's request, [n]. Raises QuantiserError if there is not one number per token."""
        with opened(self.path) as file:
            numbers: Tensor = file.get_tensor(REQUEST)
        if numbers.shape != (self.tokens,) or numbers.is_floating_point():
            raise QuantiserError(f"{self.path}: {REQUEST} is not a number for each token; capture again")
        return numbers.long()

    def leading(self) -> Tensor:
        """BF16 [n, COMPARED_COLUMNS or fewer]: the first values of each row."""
        with opened(self.path) as file:
            found: Tensor = file.get_slice(INPUT)[:, :COMPARED_COLUMNS]
        return found

    def choice(self, experts: int) -> tuple[Tensor, Tensor]:
        """The engine's choice of experts and their weights, both [n, k]. Raises QuantiserError if it is invalid."""
        with opened(self.path) as file:
            ids, weights = file.get_tensor(IDS), file.get_tensor(WEIGHTS)
        if ids.shape != weights.shape or len(ids) != self.tokens or not ((ids >= 0) & (ids < experts)).all():
            raise QuantiserError(f"{self.path}: {IDS} and {WEIGHTS} do not choose {experts} experts for each token")
        require_finite(self.path, 0, weights)
        return ids, weights


@dataclass(frozen=True)
class Capture:
    folder: Path
    files: tuple[CaptureFile, ...]

    @classmethod
    def open(cls, folder: Path, shape: MtpShape) -> "Capture":
        """Raises QuantiserError if there is no file, or one does not fit the model."""
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise QuantiserError(
                f"{folder} contains no *.safetensors; make a capture with `flash-capture` in the engine's image"
            )
        return cls(folder, tuple(CaptureFile.open(path, shape) for path in paths))

    @property
    def tokens(self) -> int:
        return sum(file.tokens for file in self.files)

    def requests(self) -> Tensor | None:
        """int64 [tokens]: a number per request, from 0. None if any file lacks the numbers."""
        if any(file.recorder is None for file in self.files):
            return None
        recorders = {name: index for index, name in enumerate(sorted({str(file.recorder) for file in self.files}))}
        pairs = [
            torch.stack([torch.full((file.tokens,), recorders[str(file.recorder)]), file.requests()], dim=1)
            for file in self.files
        ]
        return torch.unique(torch.cat(pairs), dim=0, return_inverse=True)[1]

    def require_distinct(self) -> None:
        """Raises QuantiserError if tokens occur twice: copies would evaluate what was calibrated on them.

        Single rows may be equal, such as those of prompts with the same beginning.
        """
        by_recorder: dict[str, list[Tensor]] = {}
        for file in self.files:
            named = FILE_NAME.fullmatch(file.path.name)
            by_recorder.setdefault(named["recorder"] if named else file.path.name, []).append(file.leading())
        sequences = {name: torch.cat(parts) for name, parts in by_recorder.items()}
        for name, rows in sequences.items():
            if len(rows) > 1 and _are_same_tokens(rows[: len(rows) // 2], rows[len(rows) // 2 :]):
                raise self._repeated(f"the second half of what {name} recorded repeats the first")
        for (one, rows), (other, others) in combinations(sequences.items(), 2):
            if _are_same_tokens(rows, others):
                raise self._repeated(f"{one} and {other} recorded the same tokens")

    def _repeated(self, what: str) -> QuantiserError:
        return QuantiserError(
            f"{self.folder}: {what}, as each of several GPUs did with an older version; capture again with "
            "flash-capture, which records each token once"
        )

    def require_router(self, digest: str) -> None:
        """Raises QuantiserError for files recorded with a model other than the quantised one."""
        for file in self.files:
            if file.router not in (None, digest):
                raise QuantiserError(
                    f"{file.path} was recorded with another model: its router is {file.router}, but that of the source "
                    f"is {digest}; give the capture of this model, or the source that it was restored from"
                )

    def chunks(self) -> Iterator[Tensor]:
        """All rows in order. Raises QuantiserError at the first that is not finite."""
        for file in self.files:
            for first, rows in file.chunks():
                require_finite(file.path, first, rows)
                yield rows

    def pieces(self, device: torch.device) -> Iterator[Tensor]:
        """All rows in order, read and copied by all cores. Raises QuantiserError if one is not finite."""
        wanted = [(file, first) for file in self.files for first in range(0, file.tokens, PIECE)]
        return in_threads(lambda one: one[0].piece(one[1], device), wanted)

    def columns(self) -> int:
        return self.files[0].columns()

    def gather(self, rows: Tensor) -> Tensor:
        """BF16 [n, hidden] for token numbers in rising order, reading only the pages of the files that contain them."""
        parts, begin = [], 0
        for file in self.files:
            inside = rows[(rows >= begin) & (rows < begin + file.tokens)] - begin
            begin += file.tokens
            with opened(file.path) as mapped:
                parts.append(mapped.get_tensor(INPUT).index_select(0, inside))
        return torch.cat(parts)


def _are_same_tokens(one: Tensor, other: Tensor) -> bool:
    rows = min(len(one), len(other), COMPARED_ROWS)
    return bool((one[:rows] == other[:rows]).all(1).float().mean() > MOST_EQUAL)


def require_finite(path: Path, first: int, rows: Tensor) -> None:
    bad = (~torch.isfinite(rows)).any(1).nonzero()
    if len(bad):
        raise QuantiserError(
            f"{path} contains NaN or infinity, first in row {first + int(bad[0])}; remove that file and capture again"
        )


@dataclass(frozen=True)
class Streamed:
    """Tokens that stay on disk; each batch's tokens are copied to the device."""

    capture: Capture
    device: torch.device

    def gather(self, rows: Tensor) -> Tensor:
        """Gather rows that are grouped by expert and rising within each. Every row is read once, then distributed."""
        wanted, places = torch.unique(rows.cpu(), return_inverse=True)
        return self.capture.gather(wanted).to(self.device).index_select(0, places.to(self.device))
