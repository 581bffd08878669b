"""Records in vLLM's workers: vLLM mixes `CaptureWorker` into them (`worker_extension_cls`).

Recording starts after the engine is up, so warm-up and profiling are never recorded. The engine must run eagerly: a
CUDA graph replays kernels without calling modules.
"""

import inspect
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from flash_engine.capture.recorder import Piece, Recorder


class CaptureWorker:
    """Methods for `LLM.collective_rpc`."""

    model_runner: Any
    """Of vLLM's worker."""

    def start_capture(self, folder: str, tokens: int, module: str, metadata: dict[str, str]) -> int:
        """Record the inputs of the draft's submodules of this name from now on. Returns how many there are.

        0 in workers that record nothing: a tensor-parallel group sees the same tokens, so only its first worker
        records.
        """
        from vllm.distributed import get_tensor_model_parallel_rank  # noqa: PLC0415 - only vLLM's processes have it

        draft = draft_of(self.model_runner)
        if draft is None or get_tensor_model_parallel_rank() != 0:
            return 0
        self.capture = Capture(Recorder(Path(folder), tokens, metadata), self.model_runner)
        return self.capture.watch(draft, module)

    def finish_capture(self) -> int:
        """Write the last tokens. Returns how many this worker has recorded."""
        capture: Capture | None = getattr(self, "capture", None)
        if capture is None:
            return 0
        capture.recorder.flush()
        return capture.recorder.recorded


def draft_of(runner: Any) -> Any:
    """The proposer of drafts in vLLM's first or second model runner. None in a pipeline's earlier stages."""
    return getattr(runner, "drafter", None) or getattr(runner, "speculator", None)


class Capture:
    """Passes each forward of the draft's experts to the recorder, with the requests that its tokens belong to."""

    def __init__(self, recorder: Recorder, runner: Any) -> None:
        self.recorder = recorder
        self._runner = runner
        self._pieces: list[Piece] = []
        """Of the batch for which drafts are being proposed; empty otherwise."""

    def watch(self, draft: Any, name: str) -> int:
        """Watch the submodules of the draft model whose path ends in `name`. Returns how many there are."""
        found = [module for path, module in draft.model.named_modules() if path.split(".")[-1] == name]
        for module in found:
            module.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        draft.propose = self._around(draft.propose)
        return len(found)

    def _before_forward(self, _module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces:
            x = inputs[0] if inputs else next(iter(named.values()))
            self.recorder.record(x.flatten(0, -2), pieces)

    def _around(self, propose: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `propose`: its first forward has the batch's tokens, while later ones have drafts of drafts."""
        signature = inspect.signature(propose)

        def proposing(*args: Any, **named: Any) -> Any:
            self._pieces = pieces_of(self._runner, signature.bind(*args, **named).arguments)
            try:
                return propose(*args, **named)
            finally:
                self._pieces = []

        return proposing


def pieces_of(runner: Any, arguments: dict[str, Any]) -> list[Piece]:
    """The requests of a batch in order, from the arguments of `propose`. Empty for a dummy batch."""
    if arguments.get("dummy_run"):
        return []
    batch = arguments.get("input_batch")
    if batch is not None:  # the second model runner
        names, bounds, firsts = batch.req_ids, batch.query_start_loc_np, batch.num_computed_tokens_np
    else:
        batch = runner.input_batch
        bounds = arguments["common_attn_metadata"].query_start_loc_cpu
        names, firsts = batch.req_ids, batch.num_computed_tokens_cpu
    spans = [(int(begin), int(end)) for begin, end in pairwise(bounds)]
    return [
        Piece(name, int(first), end - begin) for name, first, (begin, end) in zip(names, firsts, spans, strict=False)
    ]
