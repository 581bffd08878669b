"""mtp-quantise: restores the MTP head of a stripped DeepSeek-V4-Flash checkpoint in INT4, and verifies it.

    mtp-quantise restore  --base STRIPPED --source OFFICIAL --capture CAPTURE --out WHOLE

does everything in one command. Or step by step:

    mtp-quantise quantise --source OFFICIAL --capture CAPTURE --out RESTORED
    mtp-quantise splice   --base STRIPPED --restored RESTORED --out WHOLE
    mtp-quantise verify   WHOLE --source OFFICIAL

OFFICIAL is DeepSeek's own checkpoint (FP4 experts, FP8 attention). STRIPPED is a W4A16-FP8 checkpoint without mtp.*
tensors. CAPTURE contains recorded inputs of the experts, written by `flash-capture` in the engine's image. Each is a
folder; OFFICIAL may also be hf://owner/name@revision.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flash_contracts.restore_result import RestoreResult
from mtp_quantiser.errors import FAILED, INTERRUPTED, QuantiserError
from mtp_quantiser.interruption import interruptible


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="mtp-quantise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = top.add_subparsers(dest="command", required=True)
    _restore(parts.add_parser("restore", help="quantise, splice and verify in one step; the operator's Job runs this"))
    _quantise(parts.add_parser("quantise", help="write the INT4 shard, its manifest and a report"))
    _splice(parts.add_parser("splice", help="combine the shard with a stripped checkpoint in a new folder"))
    _verify(parts.add_parser("verify", help="read every tensor back and compare it bit by bit"))
    return top


def _restore(part: argparse.ArgumentParser) -> None:
    part.description = (
        "Does nothing if OUT is already complete. If the base has an MTP layer, OUT only links the base's files. Two "
        "processes with the same OUT share one run. After an interruption, run the same command again to resume. "
        "Prints one line of JSON: the state (Restored, NotNeeded, AlreadyRestored or Failed), a message and figures. "
        "Exit code 0 on success, 1 if you have to act, 75 or 70 if a retry may help."
    )
    part.add_argument("--base", type=Path, required=True, help="the stripped checkpoint; only read")
    part.add_argument("--source", required=True, help="the official checkpoint: a folder, or hf://owner/name@revision")
    part.add_argument(
        "--capture", type=Path, help="calibration data for GPTQ; without it, weights are rounded to nearest"
    )
    part.add_argument("--out", type=Path, required=True, help="the restored checkpoint, on the base's volume")
    part.add_argument("--result", type=Path, help="also write the line of JSON to this file")
    part.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="(%(default)s: a GPU if any)")
    part.add_argument("--batch", type=_positive, help="experts at a time, as with `quantise`")


def _quantise(part: argparse.ArgumentParser) -> None:
    part.description = (
        "Run the same command again to resume an interrupted run; the output is identical to an uninterrupted one."
    )
    part.add_argument("--source", required=True, help="the official checkpoint: a folder, or hf://owner/name@revision")
    part.add_argument("--capture", type=Path, help="folder of the calibration data; needed for GPTQ")
    part.add_argument("--out", type=Path, required=True, help="folder for the shard, the manifest and the report")
    part.add_argument("--method", choices=["gptq", "rtn"], default="gptq", help="rtn rounds to nearest (%(default)s)")
    part.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="(%(default)s: a GPU if any)")
    part.add_argument(
        "--batch", type=_positive, help="experts at a time (64 on a GPU, 4 on a CPU); halved when memory is short"
    )
    part.add_argument("--restart", action="store_true", help="discard the results of an interrupted run")


def _splice(part: argparse.ArgumentParser) -> None:
    part.description = (
        "The base is not modified. Its files are hard-linked if the file system allows it, and copied otherwise."
    )
    part.add_argument("--base", type=Path, required=True, help="the stripped checkpoint")
    part.add_argument("--restored", type=Path, required=True, help="the output of `quantise`")
    part.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")


def _verify(part: argparse.ArgumentParser) -> None:
    part.description = "Prints a line for each difference, and exits with 1 if there are any."
    part.add_argument("folder", type=Path, help="the output of `quantise` or `splice`")
    part.add_argument("--source", type=Path, help="the official checkpoint, to compare with")
    part.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="(%(default)s: a GPU if any)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        with interruptible():
            from mtp_quantiser import commands  # noqa: PLC0415 - torch takes seconds, and a signal may arrive meanwhile

            return commands.run(arguments)
    except QuantiserError as error:
        print(f"mtp-quantise: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return _interrupted(arguments)


def _interrupted(arguments: argparse.Namespace) -> int:
    message = "interrupted; run the same command again to resume"
    print(f"mtp-quantise: {message}", file=sys.stderr)
    if arguments.command == "restore":
        text = RestoreResult("Failed", message, str(arguments.out)).to_termination_message()
        print(text, flush=True)
        if arguments.result:
            arguments.result.write_text(text)
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
