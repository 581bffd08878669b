"""How much the launcher's inspection of a checkpoint of real size delays the start of vLLM.

    .venv/bin/python benchmarks/checkpoint_inspection.py [PAIRS]

Headers of real size in sparse files, 46 shards, no data. `flash-launch` with FLASH_MODEL_CHECK strict and off by
turns, with the flags annotation in place, from its start to the first line of the program that replaces vLLM.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from fake_checkpoint import REAL, FakeCheckpoint
from launcher_harness import FAST, Launcher

SHARDS = 46
LAYOUTS = {"official FP4/FP8": "official", "W4A16-FP8": "seed"}
TELL_TIME = "import time; print(time.time(), flush=True)"
MTP = '--speculative-config={"method":"mtp","num_speculative_tokens":1}'


def seconds_to_engine(launcher: Launcher, model: Path, check: str) -> float:
    began = time.time()
    process = launcher.start(launcher.program(TELL_TIME), "serve", str(model), MTP, FLASH_MODEL_CHECK=check)
    message, err = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"the launcher ended with {process.returncode}:\n{err}")
    return float(message) - began


def compare(folder: Path, kind: str, pairs: int) -> dict[str, list[float]]:
    model = FakeCheckpoint.make(kind, REAL).save(folder / "model", shards=SHARDS, with_data=False)
    launcher = Launcher(folder)
    launcher.pass_flags(json.dumps(FAST))
    times: dict[str, list[float]] = {"strict": [], "off": []}
    for _ in range(pairs):
        for check, taken in times.items():
            taken.append(seconds_to_engine(launcher, model, check))
    return times


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    for name, kind in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            times = compare(Path(folder), kind, pairs)
        added = [looked - not_looked for looked, not_looked in zip(times["strict"], times["off"], strict=True)]
        for label, taken in (*times.items(), ("added", added)):
            spread = f"{min(taken):.2f} to {max(taken):.2f}"
            print(f"{name:18} {label:7} {statistics.median(taken):.2f} s ({spread}, {pairs} pairs)", flush=True)


if __name__ == "__main__":
    main()
