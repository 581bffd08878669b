"""One rank of the timings of `gpu_trial`: every size, captured and eager. A line of JSON for each figure."""

import argparse
import os
import sys

from flash_engine.p2p_test.cuda import CudaBackend
from flash_engine.p2p_test.rank import die_with_parent, own_stdout, speaker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--rendezvous", required=True)
    parser.add_argument("--sizes", required=True, help="bytes, with commas between")
    options = parser.parse_args()
    die_with_parent()
    say = speaker(own_stdout())
    backend = CudaBackend()
    backend.device(options.rank)
    session = backend.open(options.variant, options.rank, options.rendezvous, say)
    for size in map(int, options.sizes.split(",")):
        for eager in (False, True):
            say("timed", bytes=size, eager=eager, micros=session.micros(size, eager=eager))
    session.settle()
    sys.stderr.flush()
    os._exit(0)  # without undoing CUDA and NCCL, which may wait for a peer that is gone


if __name__ == "__main__":
    main()
