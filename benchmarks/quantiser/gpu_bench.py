"""Benchmark on one GPU: 768 expert matrices of the exact shapes, synthetic data, ours and the peer's in turn.

    python gpu_bench.py --out FOLDER [--rounds 3] [--batch 64] [--no-peer] [--no-quality]

Writes FOLDER/gpu_bench.jsonl, one measurement a line, and prints the same. Needs torch >= 2.11 and triton; for the
peer, without which it goes on, also llmcompressor 0.14.0.1 and compressed-tensors 0.19.0 (installed without their
dependencies they suffice).
"""

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "quantiser"))

import torch
import triton

import quality
import synthetic
from mtp_quantiser import batch, damping
from mtp_quantiser.batch import QuantiserSettings
from mtp_quantiser.device_job import Packed, PackedExperts, batches, quantise_on_device
from mtp_quantiser.stages import Spread
from mtp_quantiser.stages.fused import FusedStages
from peer import Peer

STAGES = FusedStages()
SETTINGS = QuantiserSettings()

PEER_NEEDS = "wheels of llmcompressor 0.14.0.1 and compressed-tensors 0.19.0, without their dependencies"

T = TypeVar("T")


@dataclass
class Log:
    path: Path
    started: float = field(default_factory=time.perf_counter)

    def __call__(self, what: str, **measured: Any) -> None:
        entry = {"what": what, "at": round(time.perf_counter() - self.started, 2), **measured}
        line = json.dumps(entry)
        print(line, flush=True)
        with self.path.open("a") as out:
            out.write(line + "\n")


def timed(work: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    """Seconds from an idle device to an idle device, and the result."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = work(*arguments)
    torch.cuda.synchronize()
    return time.perf_counter() - began, result


def machine(log: Log) -> None:
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        check=False,
        capture_output=True,
        text=True,
    ).stdout.strip()
    log(
        "machine",
        gpu=torch.cuda.get_device_name(),
        driver=driver,
        torch=torch.__version__,
        triton=triton.__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        tf32=torch.backends.cuda.matmul.allow_tf32,
        data="synthetic, exact shapes",
    )


def ours(job: synthetic.Job, size: int) -> PackedExperts:
    return quantise_on_device(STAGES, job.experts, job.table, job.tokens, SETTINGS, size)


def ours_timed(job: synthetic.Job, size: int, log: Log, round_: int, what: str = "ours, 768 matrices") -> PackedExperts:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    took, made = timed(ours, job, size)
    log(
        what, round=round_, batch=size, seconds=took,
        allocated_gib=torch.cuda.max_memory_allocated() / 2**30, reserved_gib=torch.cuda.max_memory_reserved() / 2**30,
    )  # fmt: skip
    return made


def memory(job: synthetic.Job, size: int, log: Log) -> None:
    """Peaks where all tokens go to the same six experts; and whether a repetition gives the same bits."""
    skewed = synthetic.all_to_six(job)
    made = [ours_timed(skewed, size, log, round_, "ours, all tokens to six experts") for round_ in range(2)]
    log("repeated", equal=all(map(torch.equal, made[0].tensors(), made[1].tensors())))


def peer_timed(peer: Peer, job: synthetic.Job, log: Log, round_: int, *, tf32: bool, experts: int) -> None:
    """Stacks of the size it picks itself; `tf32` for its matrix products."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    spent = {"hessians": 0.0, "quantize_weight": 0.0}
    sizes = {}
    for down in (False, True):
        torch.cuda.empty_cache()
        shape = job.experts.down.shape if down else job.experts.gate.shape
        # Its own estimate does not know of the weights and gathered inputs that it is given for nothing.
        sizes["down" if down else "gate and up"] = size = max(16, min(experts, peer.stack(*shape[1:]) // 2))
        for some in batches(job.table.counts[:experts], size):
            peer_batch(peer, job, some, spent, down=down)
    torch.backends.cuda.matmul.allow_tf32 = False
    log(
        f"llm-compressor {peer.version}, {experts * 3} matrices",
        round=round_, tf32=tf32, stacks=sizes, seconds=sum(spent.values()), **spent,
    )  # fmt: skip


def peer_batch(peer: Peer, job: synthetic.Job, some: slice, spent: dict[str, float], *, down: bool) -> None:
    routed = job.table.batch(some, job.tokens)
    gate_up = batch.transposed(STAGES, job.experts[some].gate, job.experts[some].up)
    inputs, matrices = routed.x, list(gate_up.chunk(2, 2))
    if down:
        inputs = batch.inner_activations(STAGES, gate_up, routed, SETTINGS.limit)
        matrices = [batch.transposed(STAGES, job.experts[some].down)]
    del gate_up
    for matrix in matrices:
        w = matrix.mT.float().contiguous()
        scales = (w.view(*w.shape[:2], -1, 128).abs().amax(3) / 7.5).bfloat16()
        took, h = timed(stacked, peer, inputs, routed)
        spent["hessians"] += took
        spent["quantize_weight"] += timed(peer.quantise, w, h, scales, "static", 0.01)[0]
        del w, h, scales


def stacked(peer: Peer, inputs: torch.Tensor, routed: batch.Routed) -> torch.Tensor:
    return torch.stack([peer.hessian(inputs[begin:end]) for _, begin, end in routed.spans(10**9)])


@dataclass
class Split:
    """Where the time goes: the same work with a wait after each stage, so the sum is above the whole."""

    spent: dict[str, float] = field(default_factory=dict)

    def __call__(self, name: str, work: Callable[..., T], *arguments: Any) -> T:
        took, result = timed(work, *arguments)
        self.spent[name] = self.spent.get(name, 0.0) + took
        return result

    def one_batch(self, job: synthetic.Job, some: slice) -> None:
        experts = job.experts[some]
        routed = self("gather tokens", job.table.batch, some, job.tokens)
        weights = self("FP4 to BF16", batch.transposed, STAGES, experts.gate, experts.up)
        h = self("Hessians", STAGES.gram, routed.x, routed.offsets)
        spread = self("spread", STAGES.spread, routed.x, routed.offsets, h)
        inner = self("forward", batch.inner_activations, STAGES, weights, routed, SETTINGS.limit)
        h_inner = self("Hessians", STAGES.gram, inner, routed.offsets)
        spread_inner = self("spread", STAGES.spread, inner, routed.offsets, h_inner)
        counts = routed.counts
        del routed, inner
        self.matrices(weights, h, counts, spread)
        self.matrices(self("FP4 to BF16", batch.transposed, STAGES, experts.down), h_inner, counts, spread_inner)

    def matrices(self, w: torch.Tensor, h: torch.Tensor, counts: torch.Tensor, spread: Spread) -> None:
        diagonal = h.diagonal(dim1=1, dim2=2)
        order = batch.column_order(diagonal)
        middle = damping.level(diagonal, order)
        importance = batch.importance_of(diagonal, middle)
        scales = self("scale search", STAGES.search_scales, w, importance, SETTINGS.grid)
        factor = self("Cholesky", STAGES.factorise, h, order, damping.damping(diagonal, middle, counts, spread))
        swept = self("sweep", STAGES.sweep, w, scales, factor, order)
        self("pack", Packed.of, STAGES, swept.codes, scales)


def split(job: synthetic.Job, size: int, log: Log) -> None:
    measured = Split()
    for some in batches(job.table.counts, size):
        measured.one_batch(job, some)
    log("ours, stage by stage", batch=size, **{name: round(value, 4) for name, value in measured.spent.items()})


def host_to_host(job: synthetic.Job, size: int, log: Log) -> None:
    """From pinned host memory to pinned host memory, nothing overlapped: three times that add up."""
    inputs = [job.tokens.x]
    for matrix in (job.experts.gate, job.experts.up, job.experts.down):
        inputs += [matrix.packed, matrix.exponents]
    host = [pinned_like(part).copy_(part) for part in inputs]
    back: list[torch.Tensor] = []
    for round_ in range(2):
        into, _ = timed(copy_all, inputs, host)
        work, made = timed(ours, job, size)
        results = list(made.tensors())
        back = back or [pinned_like(part) for part in results]
        out, _ = timed(copy_all, back, results)
        log("ours, host to host", round=round_, to_device=into, work=work, to_host=out, seconds=into + work + out)
        del made, results


def pinned_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)


def copy_all(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source, non_blocking=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--peer-experts", type=int, default=256, help="of 256")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--no-quality", action="store_true")
    parser.add_argument("--tuning", action="store_true", help="judge on the laws that constants are tuned on")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = Log(arguments.out / "gpu_bench.jsonl")
    torch.backends.cuda.matmul.allow_tf32 = False
    machine(log)
    peer = None if arguments.no_peer else loaded_peer(log)
    speed(arguments, peer, log)
    if not arguments.no_quality:
        qualities(peer, log, tuning=arguments.tuning)


def loaded_peer(log: Log) -> Peer | None:
    """None, with a line that says so, where it is not installed: the rest can still be measured."""
    try:
        return Peer.load()
    except ImportError as error:
        log("peer missing", peer="llm-compressor", why=str(error), needs=PEER_NEEDS)
        return None


def speed(arguments: argparse.Namespace, peer: Peer | None, log: Log) -> None:
    job = synthetic.make(synthetic.Shape(), torch.device("cuda"))
    counts = job.table.counts
    log("job", tokens=len(job.tokens.x), pairs=sum(counts), least=min(counts), most=max(counts))
    log("warm-up", ours=timed(ours, job, arguments.batch)[0])
    if peer:
        peer_timed(peer, job, log, -1, tf32=False, experts=16)
    for round_ in range(arguments.rounds):
        ours_timed(job, arguments.batch, log, round_)
        if peer:
            for tf32 in (False, True):
                peer_timed(peer, job, log, round_, tf32=tf32, experts=arguments.peer_experts)
    split(job, arguments.batch, log)
    host_to_host(job, arguments.batch, log)
    memory(job, arguments.batch, log)


def qualities(peer: Peer | None, log: Log, *, tuning: bool) -> None:
    laws, seed = (synthetic.TUNING, 1000) if tuning else (synthetic.VERDICT, 1)
    for number, (name, law) in enumerate(laws.items()):
        job = synthetic.make(synthetic.FEW, torch.device("cuda"), seed + number, law)
        log("law", name=name, **vars(law))
        quality.compare(STAGES, job, peer, functools.partial(log, law=name))


if __name__ == "__main__":
    main()
