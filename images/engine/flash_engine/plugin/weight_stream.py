"""Passes a checkpoint's tensors to vLLM's loader: renames, checks or skips each of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flash_engine.checkpoint.layout import UNQUANTISED, ExpectedTensor, role_of
from flash_engine.checkpoint.schemes import SURPLUS

SCALES = (".scale", ".weight_scale", ".weight_scale_2", ".weight_global_scale")
BLOCK = 128

Weights = Iterable[tuple[str, Any]]
"""Names and torch tensors."""


class BadTensorError(ValueError):
    """An invalid tensor; the message names it."""


class WeightStream:
    """Passes tensors on; `seen` has the canonical names of those passed so far."""

    def __init__(self, canonical_name: Callable[[str], str], table: Mapping[str, ExpectedTensor]) -> None:
        self.seen: set[str] = set()
        self.current = "the first tensor"
        self._canonical_name = canonical_name
        self._table = table
        self._waiting: dict[str, dict[str, Any]] = {}

    def passing(self, weights: Weights) -> Iterator[tuple[str, Any]]:
        """Raises BadTensorError."""
        for name_in_file, tensor in weights:
            name = self._canonical_name(name_in_file)
            self.current = name
            if name.endswith(SURPLUS) and name not in self._table:
                continue
            self._check(name, tensor)
            self.seen.add(name)
            yield from self._widened(name, tensor)
        if self._waiting:
            raise BadTensorError(f"FP8 tensors without their weight or scale: {', '.join(sorted(self._waiting)[:4])}")

    def _check(self, name: str, tensor: Any) -> None:
        wanted = self._table.get(name)
        if wanted is not None and tuple(tensor.shape) != wanted.shape:
            raise BadTensorError(f"{name} is {list(tensor.shape)} but must be {list(wanted.shape)}")
        if name.endswith(SCALES) and not _is_finite(tensor):
            raise BadTensorError(
                f"{name} has scales that are NaN or infinite: the checkpoint is damaged; download it again, "
                "or quantise that tensor again"
            )

    def _widened(self, name: str, tensor: Any) -> Iterator[tuple[str, Any]]:
        """Convert FP8 weights of layers that vLLM never quantises to BF16, once weight and scale have arrived."""
        module, _, part = name.rpartition(".")
        is_scale = part in ("scale", "weight_scale")
        if role_of(module) not in UNQUANTISED or not (is_scale or _is_fp8(tensor)):
            yield name, tensor
            return
        halves = self._waiting.setdefault(module, {})
        halves["scale" if is_scale else "weight"] = tensor
        if len(halves) == 2:  # noqa: PLR2004 - weight and scale
            del self._waiting[module]
            yield f"{module}.weight", to_bf16(halves["weight"], halves["scale"])


def to_bf16(weight: Any, scale: Any) -> Any:
    """An FP8 matrix [rows, columns] with a scale for each block of 128 x 128, as BF16."""
    import torch  # noqa: PLC0415 - only vLLM's processes have it

    rows, columns = weight.shape
    spread = scale.to(torch.float32).repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return (weight.to(torch.float32) * spread).to(torch.bfloat16)


def _is_fp8(tensor: Any) -> bool:
    return "float8_e4m3" in str(tensor.dtype)


def _is_finite(tensor: Any) -> bool:
    """Whether all values are finite. E8M0 has one NaN pattern, all ones; torch cannot compute with 8-bit floats.

    A sum is finite only if all values are, and takes a tenth of the time of checking each: there are 33,792 tensors.
    """
    import torch  # noqa: PLC0415 - as above

    if tensor.dtype == torch.float8_e8m0fnu:
        return not bool((tensor.view(torch.uint8) == 255).any())  # noqa: PLR2004
    if tensor.dtype == torch.float8_e4m3fn:
        return not bool(((tensor.view(torch.uint8) & 0x7F) == 0x7F).any())  # noqa: PLR2004
    return bool(torch.isfinite(tensor.sum(dtype=torch.float64)))
