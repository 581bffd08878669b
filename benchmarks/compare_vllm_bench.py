"""Compares the gate's measurement with `vllm bench serve`, in alternation, on one real engine without other clients.

    benchmarks/compare_vllm_bench.py --engine http://127.0.0.1:8000 --model tiny --tokenizer DIR [--pairs 10]
        [--vllm "vllm"] [--json FILE]

Both request one stream at a time, at temperature 0, with prompts of the same length and the same number of tokens. The
decode speed (bench: 1000 / median TPOT) and the share of accepted drafts are compared; each pair and the medians are
printed. --json keeps each pair, with the speed of each of its streams, as one line of a file.

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
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from flash_contracts.gate_config import GateConfig
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.measurement import Measurement, Stream
from flash_engine.gate.stream_reader import StreamReader
from flash_engine.gate.trial import try_engine

USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
"""As in the gate's requests. Usage in every chunk costs speed if the engine's server has no core of its own."""

PROMPT = ("the quick brown fox jumps over a lazy dog " * 4).strip()

MOST_RATIO, MOST_POINTS = 0.03, 1.0
"""The goal: the median pair's speeds differ by at most 3 %, and its acceptance by at most one point."""


@dataclass(frozen=True)
class Target:
    """The engine, how bench is run, and what each measurement takes."""

    engine: str
    """Its address."""
    model: str
    """Served name."""
    tokenizer: str
    """Its folder, as bench sees it."""
    vllm: str = "vllm"
    """The command that runs vLLM."""
    results: Path | None = None
    """A folder for bench's results, as bench and this program see it."""
    tokens: int = 128
    """Of each stream."""
    samples: int = 3
    """Streams of each measurement."""


@dataclass(frozen=True)
class Figures:
    """The figures of one side of a pair."""

    decode_tokens_per_second: float
    acceptance_percent: float | None
    streams: tuple[float, ...] = ()
    """Tokens per second of each stream."""
    first_token_millis: float | None = None
    """Median."""


Pair = tuple[Figures, Figures]
"""The gate's and bench's."""


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="http://127.0.0.1:8000", help="address of the engine")
    parser.add_argument("--model", required=True, help="served name")
    parser.add_argument("--pairs", type=int, default=10, help="number of measurements by each")
    parser.add_argument("--tokens", type=int, default=Target.tokens, help="tokens of each stream")
    parser.add_argument("--samples", type=int, default=Target.samples, help="streams of each measurement")
    parser.add_argument("--vllm", default=Target.vllm, help="command that runs vLLM")
    parser.add_argument("--results", type=Path, help="folder for bench's results, as bench and this program see it")
    parser.add_argument("--tokenizer", required=True, help="folder of the tokenizer, as bench sees it")
    parser.add_argument("--same-streams", action="store_true", help="measure the same streams; PAIRS of them")
    parser.add_argument("--json", type=Path, help="file to add each pair to, one a line")
    options = vars(parser.parse_args())
    pairs, same, file = options.pop("pairs"), options.pop("same_streams"), options.pop("json")
    target = Target(**options)
    print(compared(same_streams(target, pairs, file) if same else in_turn(target, pairs, file)))
    return 0


def in_turn(target: Target, pairs: int, file: Path | None = None) -> list[Pair]:
    """Measure so many pairs, one side after the other. Raises RuntimeError if a side measured nothing."""
    done = []
    for number in range(pairs):
        # The order alternates, so that an engine that warms up favours neither side.
        sides = [gate, bench] if number % 2 == 0 else [bench, gate]
        found = {side.__name__: side(target) for side in sides}
        done.append((found["gate"], found["bench"]))
        note(number + 1, "in turn", done[-1], file)
    return done


def note(number: int, kind: str, pair: Pair, file: Path | None) -> None:
    """Write each pair at once, so that a run that is cut off loses only its last."""
    ours, theirs = pair
    print(f"{number:2}: gate {_shown(ours)}, bench {_shown(theirs)}", flush=True)
    if file:
        with file.open("a") as lines:
            lines.write(
                json.dumps({"kind": kind, "pair": number, "gate": asdict(ours), "bench": asdict(theirs)}) + "\n"
            )


def _shown(figures: Figures) -> str:
    accepted = figures.acceptance_percent
    shown = "" if accepted is None else f", {accepted:.2f} % accepted"
    return f"{figures.decode_tokens_per_second:.1f} tok/s{shown} [{' '.join(f'{one:.1f}' for one in figures.streams)}]"


def gate(target: Target) -> Figures:
    """One trial of the gate. Raises RuntimeError if nothing was measured, or less than bench measures."""
    return asyncio.run(_gate(target))


async def _gate(target: Target) -> Figures:
    config = GateConfig.model_validate(
        {
            "model": target.model,
            "golden": {"kind": "completion", "prompt": PROMPT},
            # No first token is early enough for this, so the measurement never ends early: all samples are taken.
            "maxFirstTokenMillis": 0,
            "decode": {
                "minTokensPerSecond": 1,
                "prompt": PROMPT,
                "tokens": target.tokens,
                "samples": target.samples,
            },
        }
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        trial = await try_engine(EngineClient(session, target.engine), config)
    if trial.measurement is None:
        raise RuntimeError(f"the gate measured nothing: {trial.doubt}")
    return gate_figures(trial.measurement)


def gate_figures(measurement: Measurement) -> Figures:
    """Raises RuntimeError if the gate cut a stream: bench would be compared with the beginning of one."""
    streams = [sample.stream for sample in measurement.samples]
    if any(stream.cut for stream in streams):
        raise RuntimeError(
            f"the gate cut a stream after {min(stream.tokens for stream in streams)} tokens, because its speed was "
            "clear: take --tokens 128, of which it cuts none"
        )
    speeds = tuple(stream.decode_tokens_per_second for stream in streams)
    return Figures(
        measurement.decode_tokens_per_second, measurement.acceptance_percent, speeds, measurement.first_token_millis
    )


def bench(target: Target) -> Figures:
    """One run of `vllm bench serve`. Raises RuntimeError with its error output."""
    prompt_tokens = asyncio.run(_prompt_tokens(target))
    return bench_figures(run_bench(target, target.engine, prompt_tokens, target.samples))


def bench_figures(result: Mapping[str, Any]) -> Figures:
    """Of bench's result file."""
    return Figures(
        1000 / result["median_tpot_ms"],
        result.get("spec_decode_acceptance_rate"),
        tuple(bench_speeds(result)),
        result.get("median_ttft_ms"),
    )


def bench_speeds(result: Mapping[str, Any]) -> list[float]:
    """Tokens per second of each stream, as bench computes its TPOT."""
    return [(tokens - 1) / sum(gaps) for tokens, gaps in zip(result["output_lens"], result["itls"], strict=True)]


def run_bench(target: Target, address: str, prompt_tokens: int, prompts: int, streams: int = 1) -> dict[str, Any]:
    """Run it with so many streams at once; the result has the times of each request.

    Raises RuntimeError with its error output.
    """
    with tempfile.TemporaryDirectory(dir=target.results) as folder:
        command = [
            *shlex.split(target.vllm), "bench", "serve", f"--base-url={address}", f"--model={target.model}",
            f"--tokenizer={target.tokenizer}", "--dataset-name=random", f"--random-input-len={prompt_tokens}",
            f"--random-output-len={target.tokens}", "--random-range-ratio=0", f"--num-prompts={prompts}",
            f"--max-concurrency={streams}", "--temperature=0", "--ignore-eos", "--save-result",
            f"--result-dir={folder}", "--result-filename=result.json", "--disable-tqdm", "--save-detailed",
            f"--extra-body={json.dumps(USAGE)}",
        ]  # fmt: skip
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)} exited with {done.returncode}: {done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
    return result


def same_streams(target: Target, streams: int, file: Path | None = None) -> list[Pair]:
    """The figures of each stream by the gate's reader, in a relay, and by bench, which sends through the relay."""
    pairs = asyncio.run(_same_streams(target, streams))
    for number, pair in enumerate(pairs):
        note(number + 1, "the same stream", pair, file)
    return pairs


async def _same_streams(target: Target, streams: int) -> list[Pair]:
    read: list[Stream] = []
    prompt_tokens = await _prompt_tokens(target)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        relay = Relay(session, target.engine, read)
        async with TestServer(relay.app()) as server:
            address = str(server.make_url("")).rstrip("/")
            result = await asyncio.to_thread(run_bench, target, address, prompt_tokens, streams)
    theirs = [Figures(speed, None) for speed in bench_speeds(result)]
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


async def _prompt_tokens(target: Target) -> int:
    body = {"model": target.model, "prompt": PROMPT, "max_tokens": 1, "temperature": 0}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{target.engine}/v1/completions", json=body) as answer,
    ):
        tokens: int = (await answer.json())["usage"]["prompt_tokens"]
    return tokens


def compared(pairs: Sequence[Pair]) -> str:
    """The medians, and whether they reach the goal."""
    ratios = [ours.decode_tokens_per_second / theirs.decode_tokens_per_second for ours, theirs in pairs]
    gaps = [
        abs(ours.acceptance_percent - theirs.acceptance_percent)
        for ours, theirs in pairs
        if ours.acceptance_percent is not None and theirs.acceptance_percent is not None
    ]
    difference = f"{median(gaps):.2f} points ({mean_acceptances(pairs)})" if gaps else "unknown"
    is_met = abs(median(ratios) - 1) <= MOST_RATIO and (not gaps or median(gaps) <= MOST_POINTS)
    return (
        f"{len(pairs)} pairs: decode speed, gate to bench: median {median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}); acceptance: median difference {difference}; "
        f"the goal is {'met' if is_met else 'missed'}"
    )


def mean_acceptances(pairs: Sequence[Pair]) -> str:
    """Of all pairs together. A few hundred drafts vary by points from one pair to the next, whoever counts them."""
    sides = [[figures.acceptance_percent for figures in side] for side in zip(*pairs, strict=True)]
    means = [fmean([one for one in side if one is not None]) for side in sides]
    return f"all pairs: gate {means[0]:.2f} %, bench {means[1]:.2f} %"


if __name__ == "__main__":
    sys.exit(main())
