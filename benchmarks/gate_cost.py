"""What monitoring costs a serving engine: its decode speed with the monitor and without, alternating in one run.

    python benchmarks/gate_cost.py --engine http://127.0.0.1:8000 --model tiny [--rounds 20] [--factor 20]

Each round decodes one stream without a monitor, one beside a monitor that reads the counters at the default interval,
and one beside a monitor that reads them `factor` times as often: at the default interval the cost of a single reading
is too small to be seen.
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
from flash_engine.gate.serving_monitor import ServingMonitor, observe_counters

PROMPT = "the quick brown fox jumps over a lazy dog"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="http://127.0.0.1:8000", help="address of the engine")
    parser.add_argument("--model", required=True, help="served name")
    parser.add_argument("--rounds", type=int, default=20, help="number of rounds")
    parser.add_argument("--tokens", type=int, default=900, help="tokens of each stream")
    parser.add_argument("--factor", type=float, default=20, help="how much more often the third one reads")
    options = parser.parse_args()
    print(asyncio.run(compare(options)))
    return 0


async def compare(options: argparse.Namespace) -> str:
    default = GateConfig.model_fields["serving"].default.watch_seconds
    pauses = {"none": None, "default": default, "frequent": default / options.factor}
    found: dict[str, list[float]] = {name: [] for name in pauses}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        client = EngineClient(session, options.engine)
        for number in range(options.rounds):
            # A random order, so that an engine that becomes slower or faster over time favours none of them.
            for name in random.sample(sorted(pauses), len(pauses)):
                found[name].append(await _speed(client, options, pauses[name]))
            print(f"{number + 1:2}: " + ", ".join(f"{name} {found[name][-1]:.1f} tok/s" for name in pauses), flush=True)
    ratios = {
        name: median(ours / none for ours, none in zip(found[name], found["none"], strict=True)) for name in pauses
    }
    usual, frequent = ratios["default"], ratios["frequent"]
    each = (1 - frequent) / options.factor
    return (
        f"{options.rounds} rounds: with the monitor {usual:.4f} of the speed without it, reading {options.factor:g} "
        f"times as often {frequent:.4f}; so one reading every {default:g} s costs {each:.3%}"
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
    async with _monitored(client, config, pause):
        stream = await client.stream(config)
    return stream.decode_tokens_per_second


@asynccontextmanager
async def _monitored(client: EngineClient, config: GateConfig, pause: float | None) -> AsyncIterator[None]:
    async def monitor() -> None:
        serving = ServingMonitor()
        while pause is not None:
            serving = serving.after(await observe_counters(client), config)
            await asyncio.sleep(pause)

    monitoring = asyncio.create_task(monitor())
    yield
    monitoring.cancel()


if __name__ == "__main__":
    sys.exit(main())
