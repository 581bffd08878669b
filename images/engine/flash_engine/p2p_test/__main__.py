"""flash-p2p-test: checks whether two GPUs of this node can use peer-to-peer.

Peer-to-peer that the driver grants can still hang or return wrong data, depending on the BIOS, the IOMMU and the PCIe
switches. So both GPUs run all-reduces in several variants, one after the other:

{variants}

Each variant all-reduces 8 KiB and 16 MiB, in bf16 and int32, eagerly and inside a CUDA graph, and checks every value.
It then times all-reduces of the sizes used in decoding. A variant that stops making progress is killed. Hangs and
wrong data are attributed to peer-to-peer only if ncclP2pOff is healthy on the same GPUs. SIGTERM stops the test at
once and leaves an inconclusive report.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flash_engine.p2p_test.host import StopSignal, driver_version
from flash_engine.p2p_test.outcome import EXIT_CODES, P2pVerdict, Timeouts, VariantResult
from flash_engine.p2p_test.report import (
    FullReport,
    overwrite,
    print_row,
    table_header,
    table_row,
    verdict_row,
)
from flash_engine.p2p_test.runner import RANK_COMMAND, P2pTestRunner
from flash_engine.p2p_test.variants import VARIANTS, Variant
from flash_engine.p2p_test.verdict import stopped, verdict

_EPILOG = """\
exit codes:
  0 healthy, 3 hang, 4 corrupt, 5 notPossible, 6 inconclusive, 2 bad usage

examples:
  flash-p2p-test --report report.json
  flash-p2p-test --variants ncclP2pOff,peer --step-seconds 10

The report on standard output is one line of JSON of at most 4000 bytes. Standard error shows the results as a table.
"""


def main(arguments: Sequence[str] | None = None, rank_command: Sequence[str] = RANK_COMMAND) -> int:
    """Entry point. Returns the exit code; for bad usage argparse exits with 2."""
    stop_requested = StopSignal()
    options = _parser().parse_args(arguments)
    timeouts = Timeouts(start=options.start_seconds, step=options.step_seconds)
    runner = P2pTestRunner(options.variants, timeouts, options.deadline_seconds, stop_requested, rank_command)
    results: list[VariantResult] = []
    print_row(table_header())
    try:
        for result in runner.run():
            results.append(result)
            print_row(table_row(result))
        found = verdict(results)
    except Exception as error:  # noqa: BLE001 - there must be a report whatever happens
        message = f"the p2p test itself failed ({type(error).__name__}: {error}); please report this as a bug"
        found = P2pVerdict("inconclusive", message)
    if stop_requested():
        found = stopped()
    # Reading the driver version can take seconds, while another pod waits for the GPUs.
    driver = None if stop_requested() else driver_version()
    return _publish(FullReport(found, driver, results), options.report)


def _publish(report: FullReport, file: Path | None) -> int:
    print_row(verdict_row(report.verdict))
    if file:
        try:
            overwrite(file, report.text)
        except OSError as error:
            print_row(f"could not write the report: {error}; it is on standard output")
    print(report.text, flush=True)  # noqa: T201 - the command's output
    return EXIT_CODES[report.verdict.outcome]


def _parser() -> argparse.ArgumentParser:
    descriptions = "\n".join(f"  {variant.name:<12}{variant.description}" for variant in VARIANTS)
    parser = argparse.ArgumentParser(
        prog="flash-p2p-test",
        description=(__doc__ or "").format(variants=descriptions),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    all_names = ",".join(variant.name for variant in VARIANTS)
    parser.add_argument(
        "--variants", type=_variants, default=VARIANTS, metavar="VARIANT,…", help=f"default: {all_names}"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the report to this file, in place")
    for name, seconds, description in (
        ("start", 90.0, "time limit for the ranks of a variant to start and join"),
        ("step", 30.0, "time limit for a rank to make progress after that"),
        ("deadline", 300.0, "time limit for the whole test"),
    ):
        message = f"{description} (default: {seconds:.0f})"
        parser.add_argument(f"--{name}-seconds", type=_seconds, default=seconds, metavar="S", help=message)
    return parser


def _variants(text: str) -> tuple[Variant, ...]:
    """Always in the order of `VARIANTS`: the first one shows whether the GPUs work at all."""
    selected = {name.strip() for name in text.split(",")}
    known = [variant.name for variant in VARIANTS]
    unknown = sorted(selected - set(known))
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise argparse.ArgumentTypeError(f"unknown variant: {names}; choose from {', '.join(known)}")
    return tuple(variant for variant in VARIANTS if variant.name in selected)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
