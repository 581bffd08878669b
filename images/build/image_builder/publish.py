"""Command line: `python -m image_builder.publish REGISTRY`. Builds the images, pushes them, writes the chart's values.

The images for GPUs are built by docker, podman or buildah on the public bases. `--builder image_builder` pushes those
that `make images` builds: the same, but with an engine and a quantiser for CPUs.
"""

import argparse
import re
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import yaml

from image_builder import debian
from image_builder.__main__ import end
from image_builder.build import ensure_image, locked
from image_builder.buildah import Buildah, BuildError
from image_builder.container_tool import CHECKS, Tool, ToolError, chosen
from image_builder.destination import BadDestinationError, Destination
from image_builder.layout import ROOT, cache_root, image_named
from image_builder.product import PRODUCTS, Product
from image_builder.progress import step
from image_builder.values_file import PushedImage, write_values

OWN: Final = "image_builder"
VALUES: Final = ROOT / "build/images/values.yaml"
CHART: Final = "charts/deepseek-flash-operator"
TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

Push = Callable[[Product, str], str]
"""Builds an image if need be, and pushes it under this reference. Returns its digest there."""


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make images PUSH=REGISTRY",
        description="Push the images, and write the values with which to install them.",
    )
    parser.add_argument("registry", help="HOST[:PORT][/PATH], as in registry.example.org/team")
    parser.add_argument(
        "--builder",
        choices=[*CHECKS, OWN],
        help=f"the first of {', '.join(CHECKS)} that works, if not given; {OWN}: images for CPUs",
    )
    parser.add_argument("--tag", help="tag of the images; the chart's version, if not given")
    parser.add_argument("--values", type=Path, default=VALUES, help="file to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, end)
    try:
        destination, tag = Destination.parse(arguments.registry), tag_of(arguments.tag)
        push = own_images if arguments.builder == OWN else partial(built_by, chosen(arguments.builder))
        images = publish(destination, tag, partial(push, destination))
    except (BadDestinationError, ToolError, BuildError, debian.SetupError) as problem:
        sys.exit(f"error: {problem}")
    write_values(images, arguments.values)
    print(summary(images, arguments.values))


def tag_of(given: str | None) -> str:
    """Raises BadDestinationError."""
    tag = given or str(yaml.safe_load((ROOT / CHART / "Chart.yaml").read_text())["appVersion"])
    if not TAG.fullmatch(tag):
        raise BadDestinationError(
            f"TAG={tag}: no tag can be this: use at most 128 letters, digits, dots, hyphens and underscores"
        )
    return tag


def publish(destination: Destination, tag: str, push: Push) -> dict[str, PushedImage]:
    """Pushes all images, the smallest first. Raises what `push` raises."""
    images = {}
    for product in PRODUCTS:
        repository = destination.repository(product.repository)
        images[product.name] = PushedImage(repository, tag, push(product, f"{repository}:{tag}"))
    return images


def built_by(tool: Tool, destination: Destination, product: Product, reference: str) -> str:
    text, arguments = product.dockerfile()
    with tempfile.TemporaryDirectory() as name:
        dockerfile = Path(name, "Dockerfile")
        dockerfile.write_text(text)
        with step(f"{product.name}: build with {tool.name}"):
            tool.build(dockerfile, ROOT, reference, arguments)
        with step(f"{product.name}: push to {reference}"):
            return tool.push(reference, Path(name), plain=destination.is_on_this_machine)


def own_images(destination: Destination, product: Product, reference: str) -> str:
    """The archive is made or found by `make images`; buildah compresses its layers on their way."""
    debian.ensure_tools()
    cache = cache_root()
    archive = ensure_image(image_named(product.for_cpus), cache)
    with locked(cache), Buildah.below(cache).session() as buildah, step(f"{product.name}: push to {reference}"):
        tool = Tool("buildah", tuple(buildah.command()))
        return push_archive(tool, archive, reference, plain=destination.is_on_this_machine)


def push_archive(tool: Tool, archive: Path, reference: str, *, plain: bool) -> str:
    """Returns the digest. What was loaded for it is removed again."""
    loaded = tool.load(archive)
    try:
        with tempfile.TemporaryDirectory() as name:
            return tool.push(reference, Path(name), local=loaded, plain=plain)
    finally:
        tool.remove(loaded)


def summary(images: dict[str, PushedImage], values: Path) -> str:
    """What was pushed, and what to type next."""
    shown = values.relative_to(ROOT) if values.is_relative_to(ROOT) else values
    install = (
        f"helm install flash {CHART} --namespace deepseek-flash-system --create-namespace "
        f"--values {shlex.quote(str(shown))}"
    )
    return "\n".join([*(image.reference for image in images.values()), f"values: {shown}", install])


if __name__ == "__main__":
    main()
