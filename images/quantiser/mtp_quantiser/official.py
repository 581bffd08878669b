"""Reads the MTP layer of DeepSeek's official checkpoint: FP4 experts, FP8 dense matrices. Names others it refuses."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from flash_contracts.mtp_capture import ROUTER, router_digest
from mtp_quantiser.batch import Experts, Fp4
from mtp_quantiser.checkpoint import Checkpoint
from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.formats import fp4
from mtp_quantiser.formats.fp8 import decode_e8m0, decode_fp8
from mtp_quantiser.layout import PREFIX, MtpShape, TensorSpec
from mtp_quantiser.threads import in_threads

FIRST_EXPERT: Final = f"{PREFIX}ffn.experts.0.w1"
REMEDY: Final = "give the official DeepSeek-V4-Flash, whose mtp.0 has FP4 experts and FP8 attention"


@dataclass(frozen=True)
class UnsupportedLayout:
    """A known layout that cannot be used as a source."""

    name: str
    matches: Callable[[Checkpoint, dict[str, TensorSpec]], bool]


def _dtype(header: dict[str, TensorSpec], suffix: str) -> str | None:
    expected = header.get(FIRST_EXPERT + suffix)
    return expected.dtype if expected else None


UNSUPPORTED_LAYOUTS: Final = (
    UnsupportedLayout(
        "the 0731 release with its DSpark drafter (mtp.1 is there)", lambda c, _: bool(c.names("mtp.1."))
    ),
    UnsupportedLayout(
        "a checkpoint without an MTP head (no mtp.* tensor)", lambda c, _: not any("mtp." in n for n in c.shard_of)
    ),
    UnsupportedLayout("a checkpoint in transformers' names (model.mtp.*)", lambda c, _: bool(c.names("model.mtp."))),
    UnsupportedLayout(
        "an MTP head that is already INT4 (weight_packed)", lambda _, h: _dtype(h, ".weight_packed") is not None
    ),
    UnsupportedLayout("DeepSeek-V4-Flash-Base with FP8 experts", lambda _, h: _dtype(h, ".weight") == "F8_E4M3"),
    UnsupportedLayout("an MTP head in BF16", lambda _, h: _dtype(h, ".weight") == "BF16"),
    UnsupportedLayout("an MTP head in NVFP4 (FP8 scales)", lambda _, h: _dtype(h, ".scale") == "F8_E4M3"),
)


@dataclass(frozen=True)
class OfficialMtp:
    checkpoint: Checkpoint
    shape: MtpShape

    @classmethod
    def open(cls, folder: Path) -> "OfficialMtp":
        """Check every name, type and shape before reading any value. Raises QuantiserError."""
        checkpoint = Checkpoint.open(folder)
        names = checkpoint.names(PREFIX)
        header = checkpoint.header(names)
        for layout in UNSUPPORTED_LAYOUTS:
            if layout.matches(checkpoint, header):
                raise QuantiserError(f"{folder} is {layout.name}; {REMEDY}")
        shape = MtpShape.of(checkpoint.config)
        require_layout(folder, shape.official(), header)
        return cls(checkpoint, shape)

    def experts(self, some: slice, device: torch.device) -> Experts:
        """The stored matrices of consecutive experts. Raises QuantiserError if a scale is NaN."""
        gate, up, down = (self._matrices(range(some.start, some.stop), name, device) for name in ("w1", "w3", "w2"))
        return Experts(gate, up, down)

    def _matrices(self, experts: Sequence[int], matrix: str, device: torch.device) -> Fp4:
        stems = [f"{PREFIX}ffn.experts.{expert}.{matrix}" for expert in experts]
        # Tensors are mapped, so it is the copy that reads the file.
        found = in_threads(self._copied, stems) if len(stems) > 1 else map(self._copied, stems)
        packed, exponents = zip(*found, strict=True)
        return Fp4(torch.stack(packed).to(device), torch.stack(exponents).to(device))

    def _copied(self, stem: str) -> tuple[Tensor, Tensor]:
        read = dict(self.checkpoint.read([f"{stem}.weight", f"{stem}.scale"]))
        weight, scale = (read[f"{stem}.{part}"].view(torch.uint8).clone() for part in ("weight", "scale"))
        if (scale == fp4.NOT_A_NUMBER).any():
            raise QuantiserError(f"{stem}.scale contains NaN; the shard is damaged, download it again")
        return weight, scale

    def rest(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors except the routed experts, as the restored checkpoint stores them."""
        for name in self.shape.dense():
            stem = PREFIX + name
            weight = self.checkpoint.tensor(f"{stem}.weight")
            scale = decode_e8m0(self.checkpoint.tensor(f"{stem}.scale").view(torch.uint8))
            require_finite(stem, weight.float(), scale)
            if name.startswith("attn."):
                yield f"{stem}.weight", weight
                yield f"{stem}.weight_scale", scale
            else:
                yield f"{stem}.weight", decode_fp8(weight, scale)
        for name, tensor in self.checkpoint.read([PREFIX + name for name in self.shape.plain()]):
            require_finite(name, tensor)
            yield name, tensor

    def router_digest(self) -> str:
        """Identifies the model, as a capture's metadata does."""
        return router_digest(self.checkpoint.tensor(ROUTER).contiguous().view(torch.uint8).numpy().tobytes())

    def gate(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The router: BF16 [experts, hidden] and the FP32 bias, which only affects the choice."""
        weight, bias = (self.checkpoint.tensor(f"{PREFIX}ffn.gate.{part}").to(device) for part in ("weight", "bias"))
        return weight, bias


def require_layout(folder: Path, wanted: dict[str, TensorSpec], found: dict[str, TensorSpec]) -> None:
    missing, surplus = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    for kind, names in (("lacks", missing), ("has unexpected", surplus)):
        if names:
            raise QuantiserError(f"{folder} {kind} {len(names)} tensors of the MTP layer, {names[0]} first; {REMEDY}")
    for name, expected in wanted.items():
        if found[name] != expected:
            raise QuantiserError(f"{folder}: {name} is {described(found[name])}, not {described(expected)}; {REMEDY}")


def require_finite(name: str, *tensors: Tensor) -> None:
    for tensor in tensors:
        if not torch.isfinite(tensor).all():
            raise QuantiserError(f"{name} contains NaN or infinity; the shard is damaged, download it again")


def described(expected: TensorSpec) -> str:
    return f"{expected.dtype} {list(expected.shape)}"
