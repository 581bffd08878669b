"""Held-out error of ours, llm-compressor's and GPTQModel's cores on a small synthetic job, on a CPU.

    python quality_bench.py --out FILE

The shapes are small and nothing is real; the job is made as that of gpu_bench.py is. Needs torch, and for each peer
what peer.py and gptqmodel_peer.py name.
"""

import argparse
import functools
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "quantiser"))

import torch

import quality
import synthetic
from gptqmodel_peer import GptqModelPeer
from mtp_quantiser.stages.plain import PlainStages
from peer import Peer

SHAPE = synthetic.Shape(experts=16, hidden=1024, inner=512, tokens=12_000, per_token=4, least=100, most=11_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out

    def log(what: str, **measured: Any) -> None:
        line = json.dumps({"what": what, **measured})
        print(line, flush=True)
        with out.open("a") as file:
            file.write(line + "\n")

    gptqmodel, peer = GptqModelPeer.load(), Peer.load()
    log(
        "machine",
        date=datetime.now(UTC).date().isoformat(),
        cpu=platform.processor() or platform.machine(),
        torch=torch.__version__,
        llmcompressor=peer.version,
        gptqmodel=gptqmodel.version,
        shape=vars(SHAPE),
    )
    for number, (name, law) in enumerate(synthetic.VERDICT.items()):
        job = synthetic.make(SHAPE, torch.device("cpu"), 1 + number, law)
        quality.compare(PlainStages(), job, peer, functools.partial(log, law=name), gptqmodel)


if __name__ == "__main__":
    main()
