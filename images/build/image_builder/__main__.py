"""Command line: `python -m image_builder IMAGE... [--print-path]`."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Never

from failure_reason import of_system
from image_builder.build import ensure_base, ensure_images
from image_builder.buildah import BuildError
from image_builder.debian import SetupError
from image_builder.layout import CUDA_IMAGE, IMAGES, cache_root, image_named

NAMES = [*(image.name for image in IMAGES), CUDA_IMAGE.name, "base"]


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="image_builder", description="Build the project's images, each once per content."
    )
    parser.add_argument(
        "image",
        nargs="+",
        choices=[*NAMES, "all"],
        help=f"what to build; all is every image but base and {CUDA_IMAGE.name}",
    )
    parser.add_argument("--print-path", action="store_true", help="print the OCI archive of each image, in order")
    return parser.parse_args(argv)


def end(number: int, _frame: FrameType | None) -> Never:
    """Raises an exception, so that buildah is stopped and its mounts are removed."""
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(sys.argv[1:] if argv is None else argv)
    names = [image.name for image in IMAGES] if "all" in arguments.image else arguments.image
    signal.signal(signal.SIGTERM, end)
    try:
        for name, archive in archives(names, cache_root()).items():
            line = f"{name}: {archive.stat().st_size / 1e6:.0f} MB"
            print(archive if arguments.print_path else f"{line} in {archive}")
    except (SetupError, BuildError) as problem:
        sys.exit(f"error: {problem}")
    except OSError as problem:
        if not (sentence := of_system(problem)):
            raise
        sys.exit(f"error: {sentence}")


def archives(names: Sequence[str], cache: Path) -> dict[str, Path]:
    images = [image_named(name) for name in names if name != "base"]
    made = dict(zip((image.name for image in images), ensure_images(images, cache), strict=True))
    return {name: made[name] if name in made else ensure_base(cache) for name in names}


if __name__ == "__main__":
    main()
