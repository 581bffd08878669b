"""One rank of the timings in `p2p_test_on_gpus`: every size, captured and eager. Prints one line of JSON per time."""

import argparse
import os
import sys

from flash_engine.p2p_test.cuda_backend import CudaBackend
from flash_engine.p2p_test.rank import claim_stdout, die_with_parent, step_writer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--rendezvous", required=True)
    parser.add_argument("--sizes", required=True, help="bytes, separated by commas")
    options = parser.parse_args()
    die_with_parent()
    report_step = step_writer(claim_stdout())
    backend = CudaBackend()
    backend.device(options.rank)
    session = backend.open(options.variant, options.rank, options.rendezvous, report_step)
    for size in map(int, options.sizes.split(",")):
        for eager in (False, True):
            report_step("timed", bytes=size, eager=eager, micros=session.micros(size, eager=eager))
    session.wait_for_peer()
    sys.stderr.flush()
    os._exit(0)  # skips the teardown of CUDA and NCCL, which may wait for a peer that is gone


if __name__ == "__main__":
    main()
