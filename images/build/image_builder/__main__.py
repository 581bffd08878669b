"""Command line: `python -m image_builder IMAGE... [--print-path]`."""

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Never

from image_builder.build import ensure_base, ensure_image
from image_builder.buildah import BuildError
from image_builder.debian import SetupError
from image_builder.layout import IMAGES, cache_root, image_named

NAMES = [*(image.name for image in IMAGES), "base"]


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="image_builder", description="Build the project's images, each once per content."
    )
    parser.add_argument("image", nargs="+", choices=[*NAMES, "all"], help="what to build; all is every image but base")
    parser.add_argument("--print-path", action="store_true", help="print the OCI archive of each image, in order")
    return parser.parse_args(argv)


def end(number: int, _frame: FrameType | None) -> Never:
    """As an exception, so that buildah is stopped and what it mounted is unmounted."""
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(sys.argv[1:] if argv is None else argv)
    names = [image.name for image in IMAGES] if "all" in arguments.image else arguments.image
    cache = cache_root()
    signal.signal(signal.SIGTERM, end)
    try:
        for name in names:
            archive = ensure_base(cache) if name == "base" else ensure_image(image_named(name), cache)
            line = f"{name}: {archive.stat().st_size / 1e6:.0f} MB"
            print(archive if arguments.print_path else f"{line} in {archive}")
    except (SetupError, BuildError) as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
