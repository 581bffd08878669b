"""The four images that the chart names: what each is built from, for GPUs and for CPUs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image_builder.dockerfile import Dockerfile
from image_builder.layout import ROOT


@dataclass(frozen=True)
class Product:
    name: str
    target: str
    """Stage of its Dockerfile, for nodes with GPUs."""
    for_cpus: str
    """The image of `image_builder.layout` in its place, for clusters without GPUs."""

    @property
    def repository(self) -> str:
        return f"flash-{self.name}"

    def dockerfile(self, root: Path = ROOT) -> tuple[str, dict[str, str]]:
        """Only the stages that it needs, because not every builder leaves out the others; and the arguments that its
        labels need."""
        source = Dockerfile.parse((root / f"images/{self.name}/Dockerfile").read_text())
        labels = {name: str(source.arguments[name]) for name in ("BASE_NAME", "BASE_DIGEST")}
        return source.resolved({}).cut_to(self.target, {}).text(), labels


PRODUCTS: Final = (
    Product("operator", "operator", "operator"),
    Product("node", "node", "node"),
    Product("quantiser", "quantiser", "quantiser-cpu"),
    Product("engine", "cuda", "engine-cpu"),
)
"""The smallest first: a registry that takes none of them says so before the engine is built."""
