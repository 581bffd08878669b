"""Combines a base checkpoint's shards with a restored MTP layer in a new folder, atomically."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, Literal

from safetensors.torch import save_file

from mtp_quantiser.checkpoint import CONFIG, INDEX, Checkpoint
from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.expert_store import write_atomically, write_json
from mtp_quantiser.layout import ALIASES, MtpShape
from mtp_quantiser.quantization_config import with_mtp
from mtp_quantiser.shard import MANIFEST, SHARD, header_of, read_manifest, require_fitting_header

ALIAS_SHARD: Final = "model-mtp-aliases.safetensors"
OTHER_NAMES: Final = {"head.weight": "lm_head.weight", "embed.weight": "model.embed_tokens.weight"}
Way = Literal["linked", "symlinked", "copied"]
WRITTEN: Final = (CONFIG, INDEX, SHARD, MANIFEST, ALIAS_SHARD)


def splice(base: Path, restored: Path, out: Path, print_line: Callable[[str], None]) -> None:
    """Link or copy the base's files and the layer of `restored` into `out`.

    Raises QuantiserError, without creating `out`, if `out` exists, the base already has an MTP layer, or the disk is
    full. The base is not modified.
    """
    checkpoint = Checkpoint.open(base)
    shape = MtpShape.of(checkpoint.config)
    require_spliceable(checkpoint, restored, out, shape)
    config = with_mtp(checkpoint.config, shape)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        link_or_copy_base(base, unfinished, print_line)
        for name in (SHARD, MANIFEST):
            link_or_copy(restored / name, unfinished / name, stays=False)
        aliases = write_aliases(checkpoint, unfinished)
        write_json(unfinished / CONFIG, config)
        write_json(unfinished / INDEX, index_of(checkpoint, unfinished, aliases))
        unfinished.rename(out)
    except OSError as error:
        raise QuantiserError(
            f"{out} cannot be written ({error}); free space there, then run the same command again"
        ) from error
    finally:
        if unfinished.exists():
            shutil.rmtree(unfinished)


def require_spliceable(checkpoint: Checkpoint, restored: Path, out: Path, shape: MtpShape) -> None:
    if out.exists():
        raise QuantiserError(f"{out} already exists; give a folder that does not exist")
    there = checkpoint.names("mtp.")
    if there:
        raise QuantiserError(f"{checkpoint.folder} already has an MTP layer ({len(there)} tensors); nothing to restore")
    read_manifest(restored)
    require_fitting_header(restored / SHARD, shape)


def link_or_copy_base(
    base: Path, into: Path, print_line: Callable[[str], None], written: Collection[str] = WRITTEN
) -> None:
    """Link or copy every file of the base, except hidden files and those in `written`."""
    ways: Counter[Way] = Counter()
    for path in sorted(base.rglob("*")):
        relative = path.relative_to(base)
        if path.is_file() and relative.as_posix() not in written and not relative.parts[0].startswith("."):
            (into / relative).parent.mkdir(parents=True, exist_ok=True)
            ways[link_or_copy(path, into / relative)] += 1
    if ways["symlinked"]:
        print_line(
            f"{ways['symlinked']} files are symbolic links to the base (no permission for hard links): keep {base}"
        )
    if ways["copied"]:
        print_line(f"{ways['copied']} files of the base were copied, because hard links cannot cross file systems")


def link_or_copy(source: Path, target: Path, *, stays: bool = True) -> Way:
    """Hard-link the file behind `source`; use a symbolic link if that is forbidden, and a copy across file systems.

    Linux forbids hard links to files that a user cannot write (fs.protected_hardlinks), and a Job does not own the
    base. Symbolic links are relative because another pod mounts the volume at another path. Files that will be removed
    (`stays=False`) are copied instead.
    """
    real = source.resolve()
    try:
        target.hardlink_to(real)
    except PermissionError:
        if stays and real.stat().st_dev == target.parent.stat().st_dev:
            target.symlink_to(os.path.relpath(real, target.parent.resolve()))
            return "symlinked"
    except OSError:
        pass  # another file system, or one without links
    else:
        return "linked"
    shutil.copyfile(source, target)
    return "copied"


def write_aliases(checkpoint: Checkpoint, into: Path) -> dict[str, str]:
    """Copies of head and embedding under the names that vLLM's MTP loader reads; name to shard."""
    tensors = {}
    for alias, name in ALIASES.items():
        found = next((known for known in (name, OTHER_NAMES[name]) if known in checkpoint.shard_of), None)
        if found is None:
            raise QuantiserError(f"{checkpoint.folder} has neither {name} nor {OTHER_NAMES[name]}; it is incomplete")
        tensors[alias] = checkpoint.tensor(found)
    write_atomically(into / ALIAS_SHARD, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    return dict.fromkeys(tensors, ALIAS_SHARD)


def index_of(checkpoint: Checkpoint, folder: Path, aliases: dict[str, str]) -> dict[str, Any]:
    weight_map = {**checkpoint.shard_of, **dict.fromkeys(header_of(folder / SHARD), SHARD), **aliases}
    total = sum((folder / shard).stat().st_size for shard in set(weight_map.values()))
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
