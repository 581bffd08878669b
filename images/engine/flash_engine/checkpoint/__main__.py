"""flash-checkpoint: what a checkpoint is, and whether it can be served, from its headers alone.

    flash-checkpoint inspect /models/DeepSeek-V4-Flash
    flash-checkpoint inspect hf://owner/name --revision COMMIT --json

Nothing is downloaded but headers, config.json and the index; a token for a private repository is read from HF_TOKEN.
The exit code is 0 for a checkpoint that can be served as asked, 1 for one that cannot, 2 for wrong usage.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from flash_engine.checkpoint.document import to_json
from flash_engine.checkpoint.inspection import Inspection, inspect
from flash_engine.checkpoint.source import open_files

SERVABLE, REFUSED = 0, 1
LOG_WIDTH = 120


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="flash-checkpoint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command = made.add_subparsers(dest="command", required=True).add_parser(
        "inspect",
        help="read the headers of a checkpoint and judge them",
        description="Reads the headers of all shards, config.json and the index; takes seconds, whatever the size.",
    )
    command.add_argument("checkpoint", metavar="PATH|URI", help="a folder, or hf://OWNER/NAME")
    command.add_argument("--revision", help="branch, tag or commit of an hf:// repository")
    command.add_argument(
        "--speculation",
        choices=("auto", "mtp", "dspark", "off"),
        default="auto",
        help="what is to draft; auto is what config.json speaks of, off judges the model alone",
    )
    command.add_argument(
        "--any-model", action="store_true", help="of a model other than DeepSeek-V4 judge the files, not the tensors"
    )
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    asked = parser().parse_args(argv)
    found = inspect(
        lambda: open_files(asked.checkpoint, asked.revision), speculation=asked.speculation, any_model=asked.any_model
    )
    _print(found, as_json=asked.json)
    return REFUSED if found.refusals else SERVABLE


def _print(found: Inspection, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_json(found), indent=1))  # noqa: T201 - the answer
        return
    from rich.console import Console  # noqa: PLC0415 - only here is anything drawn

    from flash_engine.checkpoint.report import show  # noqa: PLC0415 - likewise

    # A log has no width: what is cut there cannot be scrolled to.
    is_terminal = sys.stdout.isatty()
    show(found, Console(highlight=False, soft_wrap=not is_terminal, width=None if is_terminal else LOG_WIDTH))


if __name__ == "__main__":
    sys.exit(main())
