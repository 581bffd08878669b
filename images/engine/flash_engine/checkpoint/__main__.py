"""Check a DeepSeek-V4 checkpoint from its headers, without loading or downloading the weights.

Prints the layout, every problem with its remedy, the GPU memory that the weights take, the KV cache that is left, and
the vLLM flags that the checkpoint needs.

examples:
    flash-checkpoint inspect /models/DeepSeek-V4-Flash
    flash-checkpoint inspect hf://owner/name --revision COMMIT --json

From a hub repository, only config.json, the index and the header of each shard are fetched. For a private repository,
set HF_TOKEN.

exit codes:
    0   the checkpoint can be served (problems that the vLLM plugin repairs included)
    1   it cannot be served
    2   wrong usage
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from flash_engine.checkpoint.document import to_record
from flash_engine.checkpoint.inspection import Inspection, inspect
from flash_engine.checkpoint.source import open_files
from flash_engine.loopback import direct_to_loopback

SERVABLE, REFUSED = 0, 1
LOG_WIDTH = 120


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="flash-checkpoint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command = made.add_subparsers(dest="command", required=True).add_parser(
        "inspect",
        help="check a checkpoint and print the findings",
        description="Reads config.json, the index and the headers of all shards. Takes seconds, whatever the size.",
    )
    command.add_argument("checkpoint", metavar="PATH|URI", help="a folder, or hf://OWNER/NAME")
    command.add_argument(
        "--revision", help="branch, tag or commit of an hf:// repository (default: its default branch)"
    )
    command.add_argument(
        "--speculation",
        choices=("auto", "mtp", "dspark", "off"),
        default="auto",
        help="the speculation method that the checkpoint must support. auto: the one that config.json describes; "
        "off: check the model without its drafter (default: auto)",
    )
    command.add_argument(
        "--any-model",
        action="store_true",
        help="accept models other than DeepSeek-V4; for those, only the files are checked, not the tensors",
    )
    command.add_argument("--json", action="store_true", help="print JSON, the same document as checkpoint.json")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser().parse_args(argv)
    os.environ |= direct_to_loopback(os.environ, [os.environ.get("HF_ENDPOINT", "")])
    inspection = inspect(
        lambda: open_files(arguments.checkpoint, arguments.revision),
        speculation=arguments.speculation,
        any_model=arguments.any_model,
    )
    _print(inspection, as_json=arguments.json)
    return REFUSED if inspection.refusals else SERVABLE


def _print(inspection: Inspection, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_record(inspection).to_json(), indent=1))  # noqa: T201 - the command's output
        return
    from rich.console import Console  # noqa: PLC0415 - not needed for JSON

    from flash_engine.checkpoint.report import show  # noqa: PLC0415 - likewise

    # Outside a terminal rich would cut lines at 80 columns, and a log cannot be scrolled sideways.
    is_terminal = sys.stdout.isatty()
    show(inspection, Console(highlight=False, soft_wrap=not is_terminal, width=None if is_terminal else LOG_WIDTH))


if __name__ == "__main__":
    sys.exit(main())
