"""What the watch costs an engine that serves: its decode speed with the watch and without, in turn, in one run.

    python benchmarks/gate_cost.py --engine http://127.0.0.1:8000 --model tiny [--rounds 20] [--hurry 20]

Each round decodes one stream without a watch, one beside a watch of the default pause, and one beside a watch that
looks `hurry` times as often: what one look costs is too little to be seen at the default pause alone.
"""

import argparse
import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

import aiohttp

from flash_contracts.gate_config import GateConfig
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.serving_monitor import ServingWatch

PROMPT = "the quick brown fox jumps over a lazy dog"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="http://127.0.0.1:8000", help="address of the engine")
    parser.add_argument("--model", required=True, help="served name")
    parser.add_argument("--rounds", type=int, default=20, help="how often each is measured")
    parser.add_argument("--tokens", type=int, default=900, help="tokens of each stream")
    parser.add_argument("--hurry", type=float, default=20, help="how much oftener the third one looks")
    options = parser.parse_args()
    print(asyncio.run(compare(options)))
    return 0


async def compare(options: argparse.Namespace) -> str:
    default = GateConfig.model_fields["serving"].default.watch_seconds
    pauses = {"none": None, "default": default, "hurried": default / options.hurry}
    found: dict[str, list[float]] = {name: [] for name in pauses}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        client = EngineClient(session, options.engine)
        for number in range(options.rounds):
            # The order changes, so that an engine that gets slower or faster favours none.
            for name in random.sample(sorted(pauses), len(pauses)):
                found[name].append(await _speed(client, options, pauses[name]))
            print(f"{number + 1:2}: " + ", ".join(f"{name} {found[name][-1]:.1f} tok/s" for name in pauses), flush=True)
    ratios = {
        name: median(ours / none for ours, none in zip(found[name], found["none"], strict=True)) for name in pauses
    }
    usual, hurried = ratios["default"], ratios["hurried"]
    each = (1 - hurried) / options.hurry
    return (
        f"{options.rounds} rounds: with the watch {usual:.4f} of the speed without, looking {options.hurry:g} times as "
        f"often {hurried:.4f}; so one look each {default:g} s costs {each:.3%}"
    )


async def _speed(client: EngineClient, options: argparse.Namespace, pause: float | None) -> float:
    config = GateConfig.model_validate(
        {
            "model": options.model,
            "golden": {"prompt": PROMPT},
            "decode": {"minTokensPerSecond": 1, "prompt": PROMPT, "tokens": options.tokens},
            "serving": {"watchSeconds": pause or 1},
        }
    )
    async with _watched(client, config, pause):
        stream = await client.stream(config)
    return stream.decode_tokens_per_second


@asynccontextmanager
async def _watched(client: EngineClient, config: GateConfig, pause: float | None) -> AsyncIterator[None]:
    async def watch() -> None:
        serving = ServingWatch(client)
        while pause is not None:
            await serving.look(config)
            await asyncio.sleep(pause)

    watching = asyncio.create_task(watch())
    yield
    watching.cancel()


if __name__ == "__main__":
    sys.exit(main())
