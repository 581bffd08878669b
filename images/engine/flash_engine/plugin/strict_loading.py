"""All of a model's tensors, or none of it: where vLLM is silent, the start ends with the names of what is missing."""

from collections.abc import Callable, Iterable
from typing import Any

from flash_engine.checkpoint.finding import named
from flash_engine.checkpoint.inspection import Inspection
from flash_engine.checkpoint.layout import MTP_PREFIX, expected_of
from flash_engine.checkpoint.tensor_names import Names
from flash_engine.plugin.weight_stream import BadTensorError, Weights, WeightStream

SHARED = ("embed_tokens.weight", "shared_head.head.weight", "lm_head.weight")
"""A drafter's parameters that vLLM takes from the model when the file has none (v1/worker/gpu/spec_decode)."""

IDLE = ("_weight_g_idx", "_g_idx_sort_indices")
"""vLLM 0.26 makes room for an order of activations in every INT4 expert, and gives it up after loading where there is
none. An order that would need it is refused before (config_repair), so that nothing is ever loaded there."""

Load = Callable[[Weights], set[str]]


class IncompleteError(ValueError):
    """Tensors or parameters are missing; the message has their names."""


class StrictLoading:
    """Of one side of a checkpoint: the model, or its drafter."""

    def __init__(self, checkpoint: Inspection, *, drafter: bool, experts_are_divided: bool) -> None:
        """`experts_are_divided`: with expert parallelism vLLM does not even read what belongs to other ranks."""
        if checkpoint.config is None or checkpoint.layout is None:
            raise ValueError(f"{checkpoint.place} is no DeepSeek-V4, and this is its loader")
        self._drafter = drafter
        self._names = Names(checkpoint.config, checkpoint.tensors)
        self._table = dict(expected_of(checkpoint.config, checkpoint.layout))
        self._experts_are_divided = experts_are_divided

    def right_name(self, written: str) -> str:
        return self._names.right(written).right

    def load(self, weights: Weights, load: Load, parameters: Callable[[], Iterable[str]]) -> set[str]:
        """Returns what vLLM's own `load` returns. Raises BadTensorError and IncompleteError.

        `parameters` is asked after loading, for vLLM takes away what an optional head would need.
        """
        stream = WeightStream(self.right_name, self._table)
        try:
            loaded = load(stream.passing(weights))
        except BadTensorError:
            raise
        except Exception as error:
            told = f"vLLM cannot load {stream.current}: {type(error).__name__}: {error}"
            raise BadTensorError(told) from error
        self._require_all(stream.seen, set(parameters()) - set(loaded))
        return loaded

    def _require_all(self, seen: set[str], unfilled: set[str]) -> None:
        whose = "the drafter" if self._drafter else "the model"
        ours = (name for name in self._table if name.startswith(MTP_PREFIX) == self._drafter)
        missing = [name for name in ours if name not in seen and self._is_needed(name)]
        if missing:
            raise IncompleteError(f"{len(missing)} tensors of {whose} are not in the checkpoint: {named(missing)}")
        expected = (*IDLE, *SHARED) if self._drafter else IDLE
        empty = sorted(name for name in unfilled if not name.endswith(expected))
        if empty:
            raise IncompleteError(f"vLLM left {len(empty)} parameters of {whose} without weights: {named(empty)}")

    def _is_needed(self, name: str) -> bool:
        return not self._table[name].optional and not (self._experts_are_divided and ".ffn.experts." in name)


def parameters_of(model: Any) -> Callable[[], Iterable[str]]:
    """The names of a torch module's parameters."""
    return lambda: (name for name, _ in model.named_parameters())
