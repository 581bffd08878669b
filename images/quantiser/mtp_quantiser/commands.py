"""Implements the subcommands of mtp-quantise."""

import argparse
import traceback
from pathlib import Path

import torch

from flash_contracts.restore_result import RestoreResult
from mtp_quantiser import report
from mtp_quantiser.console import print_line, step
from mtp_quantiser.errors import FAILED, TRY_LATER, UNEXPECTED, QuantiserError, UnavailableError
from mtp_quantiser.folder_lock import exclusive_or_refused
from mtp_quantiser.interruption import interruptible
from mtp_quantiser.official import OfficialMtp
from mtp_quantiser.quantisation import Quantisation, device_context
from mtp_quantiser.restoration import Restoration
from mtp_quantiser.shard import read_manifest, require_readable
from mtp_quantiser.sources import folder_of
from mtp_quantiser.splice import splice as splice_folders
from mtp_quantiser.verify import problems


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return the exit code. Raises QuantiserError, KeyboardInterrupt."""
    match arguments.command:
        case "restore":
            return restore(arguments)
        case "quantise":
            return quantise(arguments)
        case "splice":
            return splice(arguments)
        case _:
            return verify(arguments)


def quantise(arguments: argparse.Namespace) -> int:
    wanted = Quantisation(
        source=folder_of(arguments.source),
        capture=capture_of(arguments),
        out=arguments.out,
        device=arguments.device,
        batch=arguments.batch,
        source_name=arguments.source,
    )
    with exclusive_or_refused(arguments.out):
        method = wanted.run(restart=arguments.restart)["method"]
        with step("reading back"):
            require_readable(arguments.out, read_manifest(arguments.out))
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
    """Print the result, even of a failure, and write it to --result."""
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
    """Turn every outcome except an interruption into an exit code and a result with a message."""

    def failed(code: int, message: str) -> tuple[int, RestoreResult]:
        print_line(f"mtp-quantise: {message}")
        return code, RestoreResult("Failed", message, str(wanted.out))

    try:
        with interruptible():  # inside, because torch may turn an interruption into another exception
            return 0, wanted.run()
    except UnavailableError as error:
        return failed(TRY_LATER, str(error))
    except QuantiserError as error:
        return failed(FAILED, str(error))
    except torch.cuda.OutOfMemoryError as error:
        return failed(
            TRY_LATER, f"out of GPU memory with one expert at a time ({error}); run it on a GPU that nothing else uses"
        )
    except Exception as error:  # noqa: BLE001 - the trace goes to the log, the sentence into the result
        traceback.print_exc()
        return failed(UNEXPECTED, f"{type(error).__name__}: {error}; this is a bug; the log has the traceback")


def splice(arguments: argparse.Namespace) -> int:
    with step("combining base and MTP layer"):
        splice_folders(arguments.base, arguments.restored, arguments.out, print_line)
    print_line(f"{arguments.out} is complete; check it with `mtp-quantise verify {arguments.out}`")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    found = 0
    source = OfficialMtp.open(arguments.source) if arguments.source else None
    with step("verifying"):
        for problem in problems(arguments.folder, source, device_context(arguments.device).device):
            print(problem)
            found += 1
    print_line(f"{found} differences" if found else f"{arguments.folder}: no differences")
    return 1 if found else 0
