"""Compares the gate's measurement with `vllm bench serve`, in alternation, on one real engine without other clients.

    benchmarks/compare_vllm_bench.py --engine http://127.0.0.1:8000 --model tiny [--pairs 10] [--vllm "vllm"]

Both request one stream at a time, at temperature 0, with prompts of the same length and the same number of tokens. The
decode speed (bench: 1000 / median TPOT) and the share of accepted drafts are compared; each pair and the medians are
printed.

On a busy machine, consecutive streams differ by more than the two measurements do. With --same-streams, both measure
the same streams: bench sends its requests through a relay, in which the gate's own reader takes the times.
"""

import argparse
import asyncio
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from flash_contracts.gate_config import GateConfig
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.measurement import Stream
from flash_engine.gate.stream_reader import StreamReader
from flash_engine.gate.trial import try_engine

USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
"""As in the gate's requests. Usage in every chunk costs speed if the engine's server has no core of its own."""

PROMPT = "the quick brown fox jumps over a lazy dog " * 4


@dataclass(frozen=True)
class Figures:
    """The figures of one side of a pair."""

    decode_tokens_per_second: float
    acceptance_percent: float | None


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="http://127.0.0.1:8000", help="address of the engine")
    parser.add_argument("--model", required=True, help="served name")
    parser.add_argument("--pairs", type=int, default=10, help="number of measurements by each")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each stream")
    parser.add_argument("--samples", type=int, default=3, help="streams of each measurement")
    parser.add_argument("--vllm", default="vllm", help="command that runs vLLM")
    parser.add_argument("--results", type=Path, help="folder for bench's results, as bench and this program see it")
    parser.add_argument("--tokenizer", required=True, help="folder of the tokenizer, as bench sees it")
    parser.add_argument("--same-streams", action="store_true", help="measure the same streams; PAIRS of them")
    options = parser.parse_args()
    if options.same_streams:
        print(compared(asyncio.run(same_streams(options))))
        return 0
    pairs = []
    for number in range(options.pairs):
        # The order alternates, so that an engine that warms up favours neither side.
        sides = [gate, bench] if number % 2 == 0 else [bench, gate]
        found = {side.__name__: side(options) for side in sides}
        pairs.append((found["gate"], found["bench"]))
        print(f"{number + 1:2}: gate {found['gate']}, bench {found['bench']}", flush=True)
    print(compared(pairs))
    return 0


def gate(options: argparse.Namespace) -> Figures:
    """One trial of the gate. Raises RuntimeError if nothing was measured."""
    return asyncio.run(_gate(options))


async def _gate(options: argparse.Namespace) -> Figures:
    config = GateConfig.model_validate(
        {
            "model": options.model,
            "golden": {"kind": "completion", "prompt": PROMPT},
            # No first token is early enough for this, so the measurement never ends early: all samples are taken.
            "maxFirstTokenMillis": 0,
            "decode": {
                "minTokensPerSecond": 1,
                "prompt": PROMPT,
                "tokens": options.tokens,
                "samples": options.samples,
            },
        }
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        trial = await try_engine(EngineClient(session, options.engine), config)
    if trial.measurement is None:
        raise RuntimeError(f"the gate measured nothing: {trial.doubt}")
    return Figures(trial.measurement.decode_tokens_per_second, trial.measurement.acceptance_percent)


def bench(options: argparse.Namespace) -> Figures:
    """One run of `vllm bench serve`. Raises RuntimeError with its error output."""
    prompt_tokens = asyncio.run(_prompt_tokens(options))
    result = run_bench(options, options.engine, prompt_tokens, options.samples)
    return Figures(1000 / result["median_tpot_ms"], result.get("spec_decode_acceptance_rate"))


def run_bench(options: argparse.Namespace, address: str, prompt_tokens: int, prompts: int) -> dict[str, Any]:
    """Run it; the result has the times of each request. Raises RuntimeError with its error output."""
    with tempfile.TemporaryDirectory(dir=options.results) as folder:
        command = [
            *shlex.split(options.vllm), "bench", "serve", f"--base-url={address}", f"--model={options.model}",
            f"--tokenizer={options.tokenizer}", "--dataset-name=random", f"--random-input-len={prompt_tokens}",
            f"--random-output-len={options.tokens}", "--random-range-ratio=0", f"--num-prompts={prompts}",
            "--max-concurrency=1", "--temperature=0", "--ignore-eos", "--save-result", f"--result-dir={folder}",
            "--result-filename=result.json", "--disable-tqdm", "--save-detailed", f"--extra-body={json.dumps(USAGE)}",
        ]  # fmt: skip
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)} exited with {done.returncode}: {done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
    return result


async def same_streams(options: argparse.Namespace) -> list[tuple[Figures, Figures]]:
    """The figures of each stream by the gate's reader, in a relay, and by bench, which sends through the relay."""
    read: list[Stream] = []
    prompt_tokens = await _prompt_tokens(options)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        relay = Relay(session, options.engine, read)
        async with TestServer(relay.app()) as server:
            address = str(server.make_url("")).rstrip("/")
            result = await asyncio.to_thread(run_bench, options, address, prompt_tokens, options.pairs)
    theirs = [
        Figures((tokens - 1) / sum(gaps), None)
        for tokens, gaps in zip(result["output_lens"], result["itls"], strict=True)
    ]
    # The first streams of bench only check that the engine answers.
    ours = [Figures(stream.decode_tokens_per_second, None) for stream in read[-len(theirs) :]]
    return list(zip(ours, theirs, strict=True))


class Relay:
    """Forwards requests, and reads the completions on the way as the gate does."""

    def __init__(self, session: aiohttp.ClientSession, engine: str, read: list[Stream]) -> None:
        self._session = session
        self._engine = engine
        self._read = read

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._forward)
        return app

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        address, body = f"{self._engine}{request.rel_url}", await request.read()
        reader = StreamReader(asyncio.get_running_loop().time())
        async with self._session.request(request.method, address, data=body, headers=_kept(request.headers)) as answer:
            response = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
            await response.prepare(request)
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    reader.take(json.loads(line[6:]))
                await response.write(line)
        if request.path.endswith("/completions"):
            self._read.append(reader.stream())
        return response


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Drop the headers that only apply to one connection."""
    dropped = {"host", "content-length", "transfer-encoding", "connection"}
    return {name: value for name, value in headers.items() if name.lower() not in dropped}


async def _prompt_tokens(options: argparse.Namespace) -> int:
    body = {"model": options.model, "prompt": PROMPT, "max_tokens": 1, "temperature": 0}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{options.engine}/v1/completions", json=body) as answer,
    ):
        tokens: int = (await answer.json())["usage"]["prompt_tokens"]
    return tokens


def compared(pairs: Sequence[tuple[Figures, Figures]]) -> str:
    ratios = [ours.decode_tokens_per_second / theirs.decode_tokens_per_second for ours, theirs in pairs]
    gaps = [
        abs(ours.acceptance_percent - theirs.acceptance_percent)
        for ours, theirs in pairs
        if ours.acceptance_percent is not None and theirs.acceptance_percent is not None
    ]
    difference = f"{median(gaps):.2f} points" if gaps else "unknown"
    return (
        f"{len(pairs)} pairs: decode speed, gate to bench: median {median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}); acceptance: median difference {difference}"
    )


if __name__ == "__main__":
    sys.exit(main())
