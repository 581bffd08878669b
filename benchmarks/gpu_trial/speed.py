"""What the gate measures of a real engine beside what `vllm bench serve` and the engine itself measure.

    in turn   the gate and bench after one another, as benchmarks/compare_vllm_bench.py has them
    at depth  after prompts of growing length: the gate's deeper question, one and two streams, and bench

The engine's own figure is that of its counters: tokens after the first, over the time between tokens that it has added
up. No client's time is in it.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from compare_vllm_bench import PROMPT, Target, bench_figures, compared, in_turn, run_bench, same_streams
from flash_contracts.gate_config import GateConfig
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.measurement import Stream
from flash_engine.gate.trial import try_engine
from gpu_trial.cases import Case
from tiny_tokenizer import Vocabulary, write_tokenizer

DEPTHS = (1024, 32_768, 130_048)
"""Tokens of the prompts. The longest leaves room for an answer in 131,072."""

CONTEXT = 131_072
ANSWER_TOKENS = 512
"""Of each stream at depth: while one prompt is read, another stream decodes, and both must decode together after it."""

STREAM_SECONDS = 120.0
IDLE_POLLS, POLL_SECONDS = 40, 0.05


@dataclass(frozen=True)
class SpeedRun:
    """One start of an engine and what is measured of it."""

    case: Case
    drafts: int
    """Tokens drafted per step; 0 without drafts."""
    pairs: int = 0
    """Measurements by gate and bench in turn."""
    same: int = 0
    """Streams that both measure."""


SPEED_RUNS = {
    run.case.name: run
    for run in (
        SpeedRun(Case("speed-1", "half", "Passed", acceptance=(45.0, 55.0)), drafts=1, pairs=10, same=20),
        SpeedRun(Case("speed-0", "good", "Passed"), drafts=0),
        SpeedRun(Case("speed-2", "good", "Passed", acceptance=(99.0, 100.0)), drafts=2),
    )
}


def measure_speed(run: SpeedRun, address: str, vllm: Path, folder: Path, depths: Sequence[int] = DEPTHS) -> list[str]:
    """Measure an engine that has no other clients. Results go to speed.jsonl in `folder`; returns what to print."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    write_tokenizer(Vocabulary.make(), tokenizer)
    target = Target(address, "tiny", str(tokenizer), str(vllm), tokens=128)
    file, said = folder / "speed.jsonl", []
    if run.pairs:
        said.append(f"in turn: {compared(in_turn(target, run.pairs, file))}")
    for depth in depths:
        for row in (*asyncio.run(at_depth(target, depth)), bench_at_depth(target, depth)):
            said.append(json.dumps(row))
            print(said[-1], flush=True)
            with file.open("a") as lines:
                lines.write(f"{said[-1]}\n")
    if run.same:
        said.append(f"the same streams: {compared(same_streams(target, run.same, file))}")
    return said


async def at_depth(target: Target, depth: int) -> list[dict[str, Any]]:
    """The gate's deeper question, and one and two streams by its client. Raises EngineRequestError."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        client = EngineClient(session, target.engine)
        # The first stream of a length may pay for kernels that are compiled for it. The gate's figure is not to.
        return [
            await streams_at_depth(client, target, depth, 1),
            await deeper_question(client, target, depth),
            await streams_at_depth(client, target, depth, 2),
        ]


def config_of(target: Target, depth: int) -> GateConfig:
    return GateConfig.model_validate(
        {
            "model": target.model,
            "golden": {"kind": "completion", "prompt": PROMPT},
            "decode": {"minTokensPerSecond": 1, "prompt": PROMPT, "tokens": target.tokens},
            "longPrompt": {"tokens": depth, "minPrefillTokensPerSecond": 500},
            "speculation": {"expected": False},
            "requestTimeoutSeconds": STREAM_SECONDS,
        }
    )


async def deeper_question(client: EngineClient, target: Target, depth: int) -> dict[str, Any]:
    trial = await try_engine(client, config_of(target, depth))
    prompts = trial.long_prompts
    return {
        "kind": "deeper question", "prompt": depth, "doubt": trial.doubt,
        "prefill": [one.prefill_tokens_per_second for one in prompts],
        "first_token_millis": [one.first_token_millis for one in prompts],
        "decode": [one.decode_tokens_per_second for one in prompts],
        "decode_short": trial.measurement and trial.measurement.decode_tokens_per_second,
    }  # fmt: skip


async def streams_at_depth(client: EngineClient, target: Target, depth: int, streams: int) -> dict[str, Any]:
    """So many streams at once, each after a prompt of its own."""
    config = config_of(target, depth)
    prompts = [await client.long_prompt(config, depth) for _ in range(streams)]
    before = await idle_counters(client)
    read = await asyncio.gather(
        *(client.stream(config, tokens=ANSWER_TOKENS, prompt=one, seconds=STREAM_SECONDS) for one in prompts)
    )
    after = await idle_counters(client)
    return {
        "kind": f"{streams} at once", "prompt": depth,
        "first_token_millis": [stream.first_token_millis for stream in read],
        "decode": [stream.decode_tokens_per_second for stream in read],
        "decode_together": rate_together(read),
        "engine_decode": engine_rate(before, after, streams),
        "accepted": change(before.accepted, after.accepted), "drafted": change(before.drafted, after.drafted),
    }  # fmt: skip


async def idle_counters(client: EngineClient) -> EngineCounters:
    """vLLM counts a step after sending its tokens. The last reading, if it does not become idle."""
    counters = await client.counters()
    for _ in range(IDLE_POLLS):
        await asyncio.sleep(POLL_SECONDS)
        earlier, counters = counters, await client.counters()
        if not counters.unfinished and counters == earlier:
            break
    return counters


def rate_together(streams: Sequence[Stream]) -> float | None:
    """Tokens per second of all, while all of them decode; None if they never do."""
    begin, end = max(stream.first for stream in streams), min(stream.last for stream in streams)
    if end <= begin:
        return None
    return sum(tokens_by(stream, end) - tokens_by(stream, begin) for stream in streams) / (end - begin)


def tokens_by(stream: Stream, at: float) -> float:
    """Tokens that had arrived, with those of a chunk spread over the time since the chunk before."""
    for earlier, later in pairwise(stream.arrivals):
        if earlier.at <= at <= later.at and later.at > earlier.at:
            return earlier.tokens + (later.tokens - earlier.tokens) * (at - earlier.at) / (later.at - earlier.at)
    return float(stream.tokens)


def engine_rate(before: EngineCounters, after: EngineCounters, streams: int) -> float | None:
    """Tokens per second of one stream by the engine's own clock: the first token of each is its prompt's."""
    seconds = change(before.decode_seconds, after.decode_seconds)
    return (after.generated - before.generated - streams) / seconds if seconds else None


def change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def bench_at_depth(target: Target, depth: int) -> dict[str, Any]:
    """Three streams of bench, one after the other."""
    result: Mapping[str, Any] = run_bench(target, target.engine, depth, target.samples)
    figures = bench_figures(result)
    return {
        "kind": "bench", "prompt": depth, "decode": figures.decode_tokens_per_second, "streams": figures.streams,
        "first_token_millis": figures.first_token_millis, "acceptance_percent": figures.acceptance_percent,
        "prefill": depth / median(result["ttfts"]) if result.get("ttfts") else None,
    }  # fmt: skip
