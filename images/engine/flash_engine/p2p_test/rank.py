"""One rank of one arm, started by flash-probe; what it says is in `account`. Not for people."""

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

from flash_engine.p2p_test.checks import Backend, RefusedError, Say, WrongDataError, examine

BACKEND = "flash_engine.p2p_test.cuda:CudaBackend"
_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0 wherever it could tell how it ended."""
    options = _parser().parse_args(arguments)
    die_with_parent()
    say = speaker(own_stdout())
    try:
        take_part(options, say)
    except WrongDataError as error:
        say("wrong", detail=str(error))
    except RefusedError as error:
        say("refused", detail=str(error))
    except Exception as error:  # noqa: BLE001 - what torch and NCCL raise is known only once they are there
        say("failed", detail=f"{type(error).__name__}: {error}")
    else:
        say("done")
    return 0


def take_part(options: argparse.Namespace, say: Say) -> None:
    """Raises WrongDataError, RefusedError, and whatever the backend does."""
    module, _, name = options.backend.partition(":")
    backend: Backend = getattr(importlib.import_module(module), name)()
    say("device", **backend.device(options.rank))
    session = backend.open(options.variant, options.rank, options.rendezvous, say)
    say("ready", kernel=session.kernel)
    examine(session, say)


def speaker(out: IO[str]) -> Say:
    def say(step: str, **fields: object) -> None:
        out.write(f"{json.dumps({'step': step, **fields})}\n")
        out.flush()

    return say


def own_stdout() -> IO[str]:
    """Standard output for our lines alone: what libraries print there goes to standard error from now on."""
    ours = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(ours, "w", encoding="utf-8")


def die_with_parent() -> None:
    """A rank that spins on a GPU must not outlive a parent that was killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flash_engine.p2p_test.rank", description=__doc__)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--rendezvous", required=True, help="a file that both ranks know, and that does not exist yet")
    parser.add_argument("--backend", default=BACKEND)
    return parser


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Without undoing CUDA and NCCL, which may wait for a peer that is gone.
    os._exit(code)
