"""flash-probe: may two GPUs of this node talk peer-to-peer?

What a driver grants may still hang or give wrong data, as BIOS, IOMMU and PCIe switches have it. So both GPUs
all-reduce in several ways, the arms, one after the other:

{arms}

Each arm all-reduces 8 KiB and 16 MiB, in bf16 and int32, eagerly and inside a CUDA graph, and checks every value; then
it times the sizes of decoding. It is killed when it makes no progress. A hang or wrong data are blamed on peer-to-peer
only where ncclP2pOff is healthy on the same GPUs. SIGTERM ends everything at once, with an inconclusive report.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flash_engine.p2p_test import table
from flash_engine.p2p_test.host import driver_version
from flash_engine.p2p_test.judgement import Patience
from flash_engine.p2p_test.outcome import EXIT_CODES, VariantResult, Verdict
from flash_engine.p2p_test.report import Report, write_in_place
from flash_engine.p2p_test.runner import RANK_COMMAND, Course
from flash_engine.p2p_test.stop import StopSignal
from flash_engine.p2p_test.variants import VARIANTS, Variant
from flash_engine.p2p_test.verdict import stopped, verdict

_EPILOG = """\
exit codes:
  0 healthy, 3 hang, 4 corrupt, 5 notPossible, 6 inconclusive, 2 bad usage

example:
  flash-probe --report report.json
  flash-probe --arms ncclP2pOff,peer --step-seconds 10

The report is one line of JSON on standard output, of at most 4000 bytes; a table for people is on standard error.
"""


def main(arguments: Sequence[str] | None = None, rank_command: Sequence[str] = RANK_COMMAND) -> int:
    """Entry point. Returns the exit code; argparse exits with 2 by itself."""
    asked_to_stop = StopSignal()
    options = _parser().parse_args(arguments)
    patience = Patience(start=options.start_seconds, step=options.step_seconds)
    course = Course(options.variants, patience, options.deadline_seconds, asked_to_stop, rank_command)
    results: list[VariantResult] = []
    table.tell(table.header())
    try:
        for result in course.run():
            results.append(result)
            table.tell(table.row(result))
        found = verdict(results)
    except Exception as error:  # noqa: BLE001 - a report has to be left whatever happens
        told = f"the probe itself failed ({type(error).__name__}: {error}); please report it"
        found = Verdict("inconclusive", told)
    if asked_to_stop():
        found = stopped()
    # Asking for the driver may take seconds, which somebody who wants the GPUs does not have.
    driver = None if asked_to_stop() else driver_version()
    return _leave(Report(found, driver, results), options.report)


def _leave(report: Report, file: Path | None) -> int:
    table.tell(table.last_row(report.verdict))
    if file:
        try:
            write_in_place(report.text, file)
        except OSError as error:
            table.tell(f"the report could not be written: {error}; it is on standard output")
    print(report.text, flush=True)  # noqa: T201 - this is the answer
    return EXIT_CODES[report.verdict.outcome]


def _parser() -> argparse.ArgumentParser:
    words = "\n".join(f"  {variant.name:<12}{variant.words}" for variant in VARIANTS)
    parser = argparse.ArgumentParser(
        prog="flash-probe",
        description=(__doc__ or "").format(variants=words),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    everything = ",".join(variant.name for variant in VARIANTS)
    parser.add_argument("--arms", type=_arms, default=VARIANTS, metavar="ARM,…", help=f"default: {everything}")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report there too, in place")
    for name, seconds, words in (
        ("start", 90.0, "how long the ranks may take until they are joined"),
        ("step", 30.0, "how long a rank may go without progress after that"),
        ("deadline", 300.0, "when everything is over"),
    ):
        told = f"{words} (default: {seconds:.0f})"
        parser.add_argument(f"--{name}-seconds", type=_seconds, default=seconds, metavar="S", help=told)
    return parser


def _arms(text: str) -> tuple[Variant, ...]:
    """In their own order: the first tells whether the GPUs are well at all."""
    asked = {name.strip() for name in text.split(",")}
    known = [variant.name for variant in VARIANTS]
    unknown = sorted(asked - set(known))
    if unknown:
        raise argparse.ArgumentTypeError(f"no such arm: {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    return tuple(variant for variant in VARIANTS if variant.name in asked)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
