"""Checks the built CUDA image without a GPU: `python -m cuda_image` (root, after `make images CUDA=1`).

Runs checks.py in the image as an engine pod does, as user 65532 on a read-only root, and without a network. Prints one
line a check; the exit status is 1 if one failed.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from fake_checkpoint import FakeCheckpoint
from flash_contracts.flags import derive
from flash_contracts.flags.flag_set import FlagSet
from flash_contracts.node_facts import NodeFacts
from flash_engine.launcher.server_arguments import server_arguments
from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.core.resources.engine_args import vllm_arguments
from image_builder.build import locked, ready
from image_builder.buildah import Buildah
from image_builder.dockerfile import Dockerfile
from image_builder.layout import CUDA_IMAGE, ROOT, cache_root, steps_of

LONGEST_CONTEXT: Final = 1048576
INSIDE: Final = Path("/prove")


def main() -> None:
    cache, reference = cache_root(), steps_of(CUDA_IMAGE)[-1].reference
    with locked(cache), ready(cache) as buildah, tempfile.TemporaryDirectory() as name:
        if not buildah.has(reference):
            sys.exit("error: the CUDA image of these sources is not built: make images CUDA=1")
        prepare(Path(name))
        with mounted(buildah, reference) as root:
            sys.exit(run(root, Path(name)))


def prepare(folder: Path) -> None:
    """What the checks need: sound and broken checkpoints, and the arguments derived from every example."""
    sound = FakeCheckpoint.make("seed", max_position_embeddings=LONGEST_CONTEXT).save_to_serve(folder / "sound")
    FakeCheckpoint.make("seed").save_to_serve(folder / "broken")
    next(iter(sorted((folder / "broken").rglob("*.safetensors")))).write_bytes(b"cut off")
    inside = str(INSIDE / sound.relative_to(folder))
    asked = {example.name: arguments(example, inside) for example in sorted((ROOT / "examples").glob("*.yaml"))}
    (folder / "arguments.json").write_text(json.dumps({name: said for name, said in asked.items() if said}))
    folder.chmod(0o755)


def arguments(example: Path, model: str) -> list[str] | None:
    """The launcher's command line for an example on a node with unknown links; None if it is not a deployment of V4."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(example.read_text()))
    found = [one for one in documents if one and one["kind"] == "DeepSeekFlashDeployment"]
    if not found or found[0]["spec"].get("engine", {}).get("profile") == "Custom":
        return None
    spec = FlashSpec.model_validate(found[0]["spec"])
    command = vllm_arguments(spec)
    command[1] = model
    derived = derive(NodeFacts.from_node({"metadata": {"name": "node", "labels": {}}}), spec.interconnect, {})
    return [*command, *server_arguments(command, {}, 25.0), *FlagSet.parse_text(derived.to_text()).argv]


@contextmanager
def mounted(buildah: Buildah, reference: str) -> Iterator[Path]:
    container = buildah.run("from", "--pull-never", reference).strip().splitlines()[-1]
    yield Path(buildah.run("mount", container).strip().splitlines()[-1])
    buildah.run("umount", container)


def run(root: Path, prepared: Path) -> int:
    """A mount and network namespace of its own: the image read-only, what a pod mounts as memory, and nothing else."""
    folder = Path(__file__).parent
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork"]
    command = [*namespaces, str(folder / "in_image.sh"), str(root), str(prepared), str(ROOT), str(folder)]
    return subprocess.run(command, env=image_environment(), check=False).returncode


def image_environment() -> dict[str, str]:
    stage = Dockerfile.parse((ROOT / CUDA_IMAGE.dockerfile).read_text()).stage(CUDA_IMAGE.kept[-1])
    return dict(pair.split("=", 1) for pair in (stage.setting("ENV") or "").split())


if __name__ == "__main__":
    main()
