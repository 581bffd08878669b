"""Put a restored MTP layer beside a base checkpoint's shards: a new folder that holds both, whole or not at all."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, Literal

from safetensors.torch import save_file

from mtp_quantiser.checkpoint import CONFIG, INDEX, Checkpoint
from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.expert_store import whole_or_not, write_json
from mtp_quantiser.layout import ALIASES, MtpShape
from mtp_quantiser.quantization_config import with_mtp
from mtp_quantiser.shard import MANIFEST, SHARD, header_of, read_manifest, refuse_header

ALIAS_SHARD: Final = "model-mtp-aliases.safetensors"
OTHER_NAMES: Final = {"head.weight": "lm_head.weight", "embed.weight": "model.embed_tokens.weight"}
Way = Literal["linked", "pointed at", "copied"]
WRITTEN: Final = (CONFIG, INDEX, SHARD, MANIFEST, ALIAS_SHARD)


def splice(base: Path, restored: Path, out: Path, say: Callable[[str], None]) -> None:
    """`out` gets the base's files, linked where the file system allows, and the layer of `restored`.

    Raises QuantiserError where `out` exists, the base has an MTP layer already, or the disk is full; then `out` is not
    made. The base's folder is only read.
    """
    checkpoint = Checkpoint.open(base)
    shape = MtpShape.of(checkpoint.config)
    refuse(checkpoint, restored, out, shape)
    config = with_mtp(checkpoint.config, shape)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        bring_base(base, unfinished, say)
        for name in (SHARD, MANIFEST):
            bring(restored / name, unfinished / name, stays=False)
        aliases = write_aliases(checkpoint, unfinished)
        write_json(unfinished / CONFIG, config)
        write_json(unfinished / INDEX, index_of(checkpoint, unfinished, aliases))
        unfinished.rename(out)
    except OSError as error:
        raise QuantiserError(f"{out} cannot be made ({error}); free space there, then run the same again") from error
    finally:
        if unfinished.exists():
            shutil.rmtree(unfinished)


def refuse(checkpoint: Checkpoint, restored: Path, out: Path, shape: MtpShape) -> None:
    if out.exists():
        raise QuantiserError(f"{out} exists already; give a folder that does not")
    there = checkpoint.names("mtp.")
    if there:
        raise QuantiserError(f"{checkpoint.folder} has an MTP layer already ({len(there)} tensors); nothing to restore")
    read_manifest(restored)
    refuse_header(restored / SHARD, shape)


def bring_base(base: Path, into: Path, say: Callable[[str], None], written: Collection[str] = WRITTEN) -> None:
    """Every file of the base but hidden ones and those that are `written` anew."""
    ways: Counter[Way] = Counter()
    for path in sorted(base.rglob("*")):
        relative = path.relative_to(base)
        if path.is_file() and relative.as_posix() not in written and not relative.parts[0].startswith("."):
            (into / relative).parent.mkdir(parents=True, exist_ok=True)
            ways[bring(path, into / relative)] += 1
    if ways["pointed at"]:
        say(f"{ways['pointed at']} files of the base are pointed at, for this user may not link them: keep {base}")
    if ways["copied"]:
        say(f"{ways['copied']} files of the base were copied: they lie on another file system, where no link reaches")


def bring(source: Path, target: Path, *, stays: bool = True) -> Way:
    """A hard link of the file behind `source`, a symbolic one where that is forbidden, a copy across file systems.

    Linux lets nobody link a file that they may not write (fs.protected_hardlinks), and a job is not the base's owner.
    A symbolic link is relative: another pod mounts the volume under another path. What will not stay is copied instead.
    """
    real = source.resolve()
    try:
        target.hardlink_to(real)
    except PermissionError:
        if stays and real.stat().st_dev == target.parent.stat().st_dev:
            target.symlink_to(os.path.relpath(real, target.parent.resolve()))
            return "pointed at"
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
            raise QuantiserError(f"{checkpoint.folder} has neither {name} nor {OTHER_NAMES[name]}; it is not whole")
        tensors[alias] = checkpoint.tensor(found)
    whole_or_not(into / ALIAS_SHARD, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    return dict.fromkeys(tensors, ALIAS_SHARD)


def index_of(checkpoint: Checkpoint, folder: Path, aliases: dict[str, str]) -> dict[str, Any]:
    weight_map = {**checkpoint.shard_of, **dict.fromkeys(header_of(folder / SHARD), SHARD), **aliases}
    total = sum((folder / shard).stat().st_size for shard in set(weight_map.values()))
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
