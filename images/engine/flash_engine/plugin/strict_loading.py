"""Loads all tensors of a model, or ends the start with the names of missing ones, which vLLM would ignore."""

from collections.abc import Callable, Iterable
from typing import Any

from flash_engine.checkpoint.finding import abbreviated
from flash_engine.checkpoint.inspection import Inspection
from flash_engine.checkpoint.layout import MTP_PREFIX, expected_of
from flash_engine.checkpoint.schemes import NVFP4A16_CT
from flash_engine.checkpoint.tensor_names import TensorNames
from flash_engine.plugin.weight_stream import BadTensorError, Weights, WeightStream

SHARED = ("embed_tokens.weight", "shared_head.head.weight", "lm_head.weight")
"""A drafter's parameters that vLLM shares with the model if the file has none (v1/worker/gpu/spec_decode)."""

IDLE = ("_weight_g_idx", "_g_idx_sort_indices")
"""Parameters for activation order, which vLLM 0.26 creates in every INT4 expert and drops after loading if unused.
config_repair refuses checkpoints that need them, so they are never loaded."""

WITHOUT_ACTIVATIONS = ("_input_global_scale",)
"""Parameters for activations. vLLM creates them for NVFP4 experts even if only the weights are quantised, but then no
kernel reads them (fused_moe/oracle/nvfp4.py, use_a16)."""

Load = Callable[[Weights], set[str]]


class IncompleteError(ValueError):
    """Tensors or parameters are missing; the message names them."""


class StrictLoading:
    """Strict loading of one part of a checkpoint: the model, or its drafter."""

    def __init__(self, checkpoint: Inspection, *, drafter: bool, experts_are_divided: bool) -> None:
        """`experts_are_divided`: expert parallelism, in which vLLM does not read the experts of other ranks."""
        if checkpoint.config is None or checkpoint.layout is None:
            raise ValueError(f"{checkpoint.place} is not a DeepSeek-V4 checkpoint, which this loader needs")
        self._drafter = drafter
        self._names = TensorNames(checkpoint.config, checkpoint.tensors)
        self._table = dict(expected_of(checkpoint.config, checkpoint.layout))
        self._experts_are_divided = experts_are_divided
        is_a16 = NVFP4A16_CT in checkpoint.layout.main.values()
        self._idle = (*IDLE, *WITHOUT_ACTIVATIONS) if is_a16 else IDLE

    def canonical_name(self, name_in_file: str) -> str:
        return self._names.resolve(name_in_file).canonical

    def load(self, weights: Weights, load: Load, parameters: Callable[[], Iterable[str]]) -> set[str]:
        """Load the weights. Returns what vLLM's own `load` returns. Raises BadTensorError and IncompleteError.

        `parameters` is called after loading, because vLLM removes the parameters of an absent optional head.
        """
        stream = WeightStream(self.canonical_name, self._table)
        try:
            loaded = load(stream.passing(weights))
        except BadTensorError:
            raise
        except Exception as error:
            message = f"vLLM cannot load {stream.current}: {type(error).__name__}: {error}"
            raise BadTensorError(message) from error
        self._require_all(stream.seen, set(parameters()) - set(loaded))
        return loaded

    def _require_all(self, seen: set[str], unfilled: set[str]) -> None:
        whose = "the drafter" if self._drafter else "the model"
        ours = (name for name in self._table if name.startswith(MTP_PREFIX) == self._drafter)
        missing = [name for name in ours if name not in seen and self._is_needed(name)]
        if missing:
            raise IncompleteError(
                f"{len(missing)} tensors of {whose} are not in the checkpoint: {abbreviated(missing)}"
            )
        expected = (*self._idle, *SHARED) if self._drafter else self._idle
        empty = sorted(name for name in unfilled if not name.endswith(expected))
        if empty:
            raise IncompleteError(f"vLLM left {len(empty)} parameters of {whose} without weights: {abbreviated(empty)}")

    def _is_needed(self, name: str) -> bool:
        return not self._table[name].optional and not (self._experts_are_divided and ".ffn.experts." in name)


def parameters_of(model: Any) -> Callable[[], Iterable[str]]:
    """A function that returns the names of a torch module's parameters."""
    return lambda: (name for name, _ in model.named_parameters())
