"""Implements the subcommands of mtp-quantise."""

import argparse
import traceback
from pathlib import Path
from typing import Final

import torch

from flash_contracts.restore_result import RestoreResult
from mtp_quantiser import report
from mtp_quantiser.console import print_line, step
from mtp_quantiser.errors import QuantiserError, UnavailableError
from mtp_quantiser.interruption import interruptible
from mtp_quantiser.quantisation import Quantisation
from mtp_quantiser.restoration import Restoration
from mtp_quantiser.sources import folder_of
from mtp_quantiser.splice import splice as splice_folders
from mtp_quantiser.verify import problems

FAILED: Final = 1
"""A retry cannot help; the user has to act."""
UNEXPECTED: Final = 70
TRY_LATER: Final = 75
"""EX_SOFTWARE and EX_TEMPFAIL of sysexits.h."""
INTERRUPTED: Final = 130


def capture(arguments: argparse.Namespace) -> int:
    from mtp_quantiser.vllm_capture import run  # noqa: PLC0415 - only this command needs vLLM

    tokens = run(arguments)
    print_line(f"{tokens:,} tokens in {arguments.out}")
    return 0


def quantise(arguments: argparse.Namespace) -> int:
    wanted = Quantisation(
        source=folder_of(arguments.source),
        capture=capture_of(arguments),
        out=arguments.out,
        device=arguments.device,
        batch=arguments.batch,
    )
    with interruptible():
        method = wanted.run(restart=arguments.restart)["method"]
    page = arguments.out / report.HTML
    print_line(f"{method['gptq']} matrices by GPTQ, {method['rtn']} rounded to nearest; see {page}")
    return 0


def capture_of(arguments: argparse.Namespace) -> Path | None:
    if arguments.method == "rtn":
        return None
    if arguments.capture is None:
        raise QuantiserError("GPTQ needs --capture; without one, round to nearest with --method rtn")
    return Path(arguments.capture)


def restore(arguments: argparse.Namespace) -> int:
    """Prints the result, failures included, and writes it to --result."""
    wanted = Restoration(
        base=arguments.base,
        source=arguments.source,
        capture=arguments.capture,
        out=arguments.out,
        print_line=print_line,
        device=arguments.device,
        batch=arguments.batch,
    )
    code, result = _ended(wanted)
    print(result.to_termination_message(), flush=True)
    if arguments.result:
        arguments.result.write_text(result.to_termination_message())
    return code


def _ended(wanted: Restoration) -> tuple[int, RestoreResult]:
    """Turns every way to end into an exit code and a result with a message."""

    def failed(code: int, message: str) -> tuple[int, RestoreResult]:
        print_line(f"mtp-quantise: {message}")
        return code, RestoreResult("Failed", message, str(wanted.out))

    try:
        with interruptible():
            return 0, wanted.run()
    except UnavailableError as error:
        return failed(TRY_LATER, str(error))
    except QuantiserError as error:
        return failed(FAILED, str(error))
    except KeyboardInterrupt:
        return failed(INTERRUPTED, "interrupted; run the same command again to resume")
    except torch.cuda.OutOfMemoryError as error:
        return failed(
            TRY_LATER, f"out of GPU memory with one expert at a time ({error}); run it on a GPU that nothing else uses"
        )
    except Exception as error:  # noqa: BLE001 - the trace goes to the log, the sentence to whoever reads the result
        traceback.print_exc()
        return failed(UNEXPECTED, f"{type(error).__name__}: {error}; this is a bug; the log has the traceback")


def splice(arguments: argparse.Namespace) -> int:
    with step("combining base and MTP layer"):
        splice_folders(arguments.base, arguments.restored, arguments.out, print_line)
    print_line(f"{arguments.out} is complete; check it with `mtp-quantise verify {arguments.out}`")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    found = 0
    for problem in problems(arguments.folder, arguments.source):
        print(problem)
        found += 1
    print_line(f"{found} differences" if found else f"{arguments.folder}: no differences")
    return 1 if found else 0
