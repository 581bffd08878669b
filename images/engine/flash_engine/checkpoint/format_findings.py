"""Findings from file names alone: another format, or a checkpoint in a subfolder."""

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_engine.checkpoint.checkpoint_files import CheckpointFiles
from flash_engine.checkpoint.file_formats import GGUF, GGUF_MAGIC, FileFormat, nested_checkpoint, recognise
from flash_engine.checkpoint.finding import abbreviated
from flash_engine.checkpoint.headers import MISTRAL_INDEX, WeightFiles
from flash_engine.checkpoint.layout import SERVABLE
from flash_engine.checkpoint.origin import another

SAFETENSORS = another("safetensors")
IN_VLLM = {
    "yes": "which vLLM loads, but whose tensors cannot be checked",
    "maybe": "which vLLM 0.26 to 0.33 does not load without a plugin",
    "no": "which vLLM does not load",
}


def format_finding(files: CheckpointFiles, *, is_strict: bool) -> CheckpointFinding | None:
    """What a folder has instead of a safetensors checkpoint; None if it has one, or nothing is recognised.

    `is_strict`: accept only DeepSeek-V4 in a known layout, not everything that vLLM might load.
    """
    weights = WeightFiles.among(files.sizes)
    if weights.loaded and ("config.json" in files.sizes or weights.index != MISTRAL_INDEX or not is_strict):
        return None
    found = recognise(files.sizes) or (_unnamed_gguf(files) if not weights.loaded else None)
    nested = nested_checkpoint(files.sizes)
    if nested and not weights.loaded and not (found and (found[0].is_unfinished or found[0].has_subfolders)):
        message = f"the safetensors files are in the subfolder {nested} of {files.place}, where vLLM does not look"
        remedy = files.origin.subfolder.format(folder=nested)
        return CheckpointFinding("Subfolder", "refused", message, remedy, without_plugin="does not start")
    return _of_format(files, *found, is_strict=is_strict) if found else None


def _unnamed_gguf(files: CheckpointFiles) -> tuple[FileFormat, list[str]] | None:
    """A GGUF file without its suffix: registries of llama.cpp models name files by their digests."""
    largest = max(files.sizes, key=lambda name: files.sizes[name], default=None)
    is_gguf = largest is not None and files.read(largest, 0, len(GGUF_MAGIC)) == GGUF_MAGIC
    return (GGUF, [largest]) if largest and is_gguf else None


def _of_format(files: CheckpointFiles, one: FileFormat, names: list[str], *, is_strict: bool) -> CheckpointFinding:
    shown = abbreviated(names, most=1)
    is_accepted = not is_strict and one.served != "no"
    effect = IN_VLLM[one.served]
    message = f"{files.place} contains {one.name} ({shown}), {effect}"
    return CheckpointFinding(
        "ForeignFormat",
        "note" if is_accepted else "refused",
        message,
        _remedy(files, one, is_strict=is_strict),
        without_plugin="loads it" if one.served == "yes" else "does not start",
    )


def _remedy(files: CheckpointFiles, one: FileFormat, *, is_strict: bool) -> str:
    if one.is_unfinished:
        return files.origin.change(one.served_by)
    if is_strict:
        return f"{one.served_by}; here, {SAFETENSORS} in one of these layouts: {', '.join(SERVABLE)}"
    if one.served == "yes":
        return "nothing"
    if one.served == "maybe":
        return f"nothing, if engine.image has such a plugin; otherwise {SAFETENSORS}"
    return f"{one.served_by}; here, {SAFETENSORS}"
