"""One rank of one variant, started by flash-p2p-test. It reports the steps that `RankProgress` reads."""

import argparse
import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import IO

from flash_engine.p2p_test.payload import Backend, NotPossibleError, ReportStep, WrongDataError, run_checks

BACKEND = "flash_engine.p2p_test.cuda_backend:CudaBackend"
_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0 whenever the rank could report how it ended."""
    options = _parser().parse_args(arguments)
    die_with_parent()
    report_step = step_writer(claim_stdout())
    try:
        run_rank(options, report_step)
    except WrongDataError as error:
        report_step("wrong", detail=str(error))
    except NotPossibleError as error:
        report_step("refused", detail=str(error))
    except Exception as error:  # noqa: BLE001 - torch and NCCL raise types that are known only once they are imported
        report_step("failed", detail=f"{type(error).__name__}: {error}")
    else:
        report_step("done")
    return 0


def run_rank(options: argparse.Namespace, report_step: ReportStep) -> None:
    """Raises WrongDataError, NotPossibleError, and whatever the backend raises."""
    module, _, name = options.backend.partition(":")
    backend: Backend = getattr(importlib.import_module(module), name)()
    report_step("device", **backend.device(options.rank))
    session = backend.open(options.variant, options.rank, options.rendezvous, report_step)
    report_step("ready", kernel=session.kernel)
    run_checks(session, report_step)


def step_writer(out: IO[str]) -> ReportStep:
    def report_step(step: str, **fields: object) -> None:
        out.write(f"{json.dumps({'step': step, **fields})}\n")
        out.flush()

    return report_step


def claim_stdout() -> IO[str]:
    """Reserve standard output for our steps. From now on, what libraries print there appears on standard error."""
    ours = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(ours, "w", encoding="utf-8")


def die_with_parent() -> None:
    """A rank that spins on a GPU must not outlive a parent that was killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flash_engine.p2p_test.rank", description=__doc__)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument(
        "--rendezvous", required=True, help="path known to both ranks, of a file that does not exist yet"
    )
    parser.add_argument("--backend", default=BACKEND)
    return parser


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Skips the teardown of CUDA and NCCL, which may wait for a peer that is gone.
    os._exit(code)
