"""Reads captured inputs of the MTP layer's experts, the calibration data, from disk.

A capture is a folder of safetensors files, read in the order of their names. Each holds

    ffn_input      BF16 [n, hidden]   what enters the mixture of experts: the output of mtp.0.ffn_norm
    topk_ids       I32  [n, k]        optional: the experts chosen by the engine
    topk_weights   F32  [n, k]        optional, with topk_ids: their weights

and the metadata {"format": "mtp-capture-1"}. Rows are tokens in any order. If the engine's choice is
missing, it is computed from the router's weights, as the model does. `capture_hook` writes this format.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from mtp_quantiser.checkpoint import opened
from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.layout import MtpShape

FORMAT: Final = "mtp-capture-1"
INPUT: Final = "ffn_input"
IDS: Final = "topk_ids"
WEIGHTS: Final = "topk_weights"
CHUNK: Final = 65536


@dataclass(frozen=True)
class CaptureFile:
    path: Path
    tokens: int
    routed: bool
    """Whether it holds the engine's choice of experts."""

    @classmethod
    def open(cls, path: Path, shape: MtpShape) -> "CaptureFile":
        with opened(path) as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise QuantiserError(
                    f"{path} does not have format {FORMAT} in its metadata; capture again with this tool"
                )
            names = set(file.keys())
            if INPUT not in names:
                raise QuantiserError(f"{path} has no tensor {INPUT}; capture again with this tool")
            part = file.get_slice(INPUT)
            rows = list(part.get_shape())
            if part.get_dtype() != "BF16" or rows[1:] != [shape.hidden]:
                raise QuantiserError(
                    f"{path}: {INPUT} is {part.get_dtype()} {rows}, not BF16 [n, {shape.hidden}]; another model's"
                )
            return cls(path, rows[0], {IDS, WEIGHTS} <= names)

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, rows) in pieces, mapped from the file, never all at once in memory."""
        with opened(self.path) as file:
            whole = file.get_slice(INPUT)
            for first in range(0, self.tokens, CHUNK):
                yield first, whole[first : min(first + CHUNK, self.tokens)]

    def choice(self, experts: int) -> tuple[Tensor, Tensor]:
        """The engine's choice, [n, k] both. Raises QuantiserError where it cannot be one."""
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
        """Raises QuantiserError for no file, or one that does not fit the model."""
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise QuantiserError(f"{folder} holds no *.safetensors; make a capture with `mtp-quantise capture`")
        return cls(folder, tuple(CaptureFile.open(path, shape) for path in paths))

    @property
    def tokens(self) -> int:
        return sum(file.tokens for file in self.files)

    def chunks(self) -> Iterator[Tensor]:
        """All rows in order. Raises QuantiserError at the first that is not finite."""
        for file in self.files:
            for first, rows in file.chunks():
                require_finite(file.path, first, rows)
                yield rows

    def gather(self, rows: Tensor) -> Tensor:
        """BF16 [n, hidden] of token numbers in rising order, read from the files' pages that hold them."""
        parts, begin = [], 0
        for file in self.files:
            inside = rows[(rows >= begin) & (rows < begin + file.tokens)] - begin
            begin += file.tokens
            with opened(file.path) as mapped:
                parts.append(mapped.get_tensor(INPUT).index_select(0, inside))
        return torch.cat(parts)


def require_finite(path: Path, first: int, rows: Tensor) -> None:
    bad = (~torch.isfinite(rows)).any(1).nonzero()
    if len(bad):
        raise QuantiserError(
            f"{path} holds NaN or infinity, first in row {first + int(bad[0])}; remove that file and capture again"
        )


@dataclass(frozen=True)
class Streamed:
    """Tokens kept on disk; each batch's tokens are copied to the device."""

    capture: Capture
    device: torch.device

    def gather(self, rows: Tensor) -> Tensor:
        """Rows grouped by expert and rising within each; every row is read once, then distributed."""
        wanted, places = torch.unique(rows.cpu(), return_inverse=True)
        return self.capture.gather(wanted).to(self.device).index_select(0, places.to(self.device))
