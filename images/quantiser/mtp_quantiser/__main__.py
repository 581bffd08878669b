"""mtp-quantise: give a stripped DeepSeek-V4-Flash checkpoint its MTP head back, in INT4, and prove it.

    mtp-quantise restore  --base STRIPPED --source OFFICIAL --capture CAPTURE --out WHOLE

does everything, once; or step by step:

    mtp-quantise quantise --source OFFICIAL --capture CAPTURE --out RESTORED
    mtp-quantise splice   --base STRIPPED --restored RESTORED --out WHOLE
    mtp-quantise verify   WHOLE --source OFFICIAL

OFFICIAL is DeepSeek's own checkpoint (FP4 experts, FP8 attention), STRIPPED a W4A16-FP8 one without mtp.*, CAPTURE the
inputs of the experts as `capture` writes them. Each may be a folder, OFFICIAL also hf://owner/name@revision.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtp_quantiser import commands
from mtp_quantiser.errors import QuantiserError


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="mtp-quantise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = top.add_subparsers(dest="command", required=True)
    _capture(
        parts.add_parser("capture", help="run prompts through vLLM and record what enters the MTP layer's experts")
    )
    _restore(parts.add_parser("restore", help="quantise, splice and verify, once for a folder; what a Job runs"))
    _quantise(parts.add_parser("quantise", help="make the INT4 shard, its manifest and a report"))
    _splice(parts.add_parser("splice", help="put the shard beside a stripped checkpoint, as a new folder"))
    _verify(parts.add_parser("verify", help="read everything back and compare it bit by bit"))
    return top


def _capture(part: argparse.ArgumentParser) -> None:
    part.description = (
        "Needs vLLM. The model must have an MTP layer: for a stripped one, first restore it without a capture "
        "(`quantise --method rtn`), then capture with that, then quantise with GPTQ."
    )
    part.add_argument("--model", type=Path, required=True, help="a checkpoint with an MTP layer")
    part.add_argument("--prompts", type=Path, required=True, help="JSON lines, each with a text under `prompt`")
    part.add_argument("--out", type=Path, required=True, help="folder for the capture")
    part.add_argument("--tokens", type=int, default=500_000, help="stop recording after so many (%(default)s)")
    part.add_argument("--max-tokens", type=int, default=256, help="tokens to generate for each prompt (%(default)s)")
    part.add_argument("--max-model-len", type=int, default=4096, help="(%(default)s)")
    part.add_argument("--tensor-parallel-size", type=int, default=1, help="(%(default)s)")
    part.add_argument("--module", default="ffn", help="name of the experts' module in the draft model (%(default)s)")
    part.set_defaults(run=commands.capture)


def _restore(part: argparse.ArgumentParser) -> None:
    part.description = (
        "Ends at once where OUT is whole already, and where the base has an MTP layer OUT is only its files. Two at "
        "the same OUT do the work once. Interrupted, it goes on when the same command is given again. What comes of "
        "it is one line of JSON: state Restored, NotNeeded, AlreadyRestored or Failed, a sentence, and figures. "
        "Exit code 0; 1 where a person has to act; 75 and 70 where another try may help."
    )
    part.add_argument("--base", type=Path, required=True, help="the stripped checkpoint; only read")
    part.add_argument("--source", required=True, help="the official checkpoint: a folder, or hf://owner/name@revision")
    part.add_argument("--capture", type=Path, help="calibration data for GPTQ; without it rounds to nearest")
    part.add_argument("--out", type=Path, required=True, help="the restored checkpoint, on the base's volume")
    part.add_argument("--result", type=Path, help="a file that gets the line of JSON as well")
    part.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="(%(default)s: a GPU if any)")
    part.add_argument("--batch", type=int, help="experts at a time, as with `quantise`")
    part.set_defaults(run=commands.restore)


def _quantise(part: argparse.ArgumentParser) -> None:
    part.description = (
        "An interrupted run goes on where it stopped when the same command is given again, and ends in the same bytes."
    )
    part.add_argument("--source", required=True, help="the official checkpoint: a folder, or hf://owner/name@revision")
    part.add_argument("--capture", type=Path, help="folder of the calibration data; needed for GPTQ")
    part.add_argument("--out", type=Path, required=True, help="folder for the shard, the manifest and the report")
    part.add_argument("--method", choices=["gptq", "rtn"], default="gptq", help="rtn rounds to nearest (%(default)s)")
    part.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="(%(default)s: a GPU if any)")
    part.add_argument(
        "--batch", type=int, help="experts at a time (64 on a GPU, 4 on a CPU); halved when memory is short"
    )
    part.add_argument("--restart", action="store_true", help="forget what an interrupted run has finished")
    part.set_defaults(run=commands.quantise)


def _splice(part: argparse.ArgumentParser) -> None:
    part.description = "The base is only read. Its files are linked where the file system allows, else copied."
    part.add_argument("--base", type=Path, required=True, help="the stripped checkpoint")
    part.add_argument("--restored", type=Path, required=True, help="what `quantise` made")
    part.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    part.set_defaults(run=commands.splice)


def _verify(part: argparse.ArgumentParser) -> None:
    part.description = "Exit code 1 and a line for each difference, if there is one."
    part.add_argument("folder", type=Path, help="what `quantise` or `splice` made")
    part.add_argument("--source", type=Path, help="the official checkpoint, to compare with")
    part.set_defaults(run=commands.verify)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except QuantiserError as error:
        print(f"mtp-quantise: {error}", file=sys.stderr)
        return commands.FAILED
    except KeyboardInterrupt:
        print("mtp-quantise: interrupted; give the same command again to go on", file=sys.stderr)
        return commands.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
