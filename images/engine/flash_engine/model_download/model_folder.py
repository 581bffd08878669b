"""Finds the model in an unpacked image. It may not be at the root: KServe's modelcars have it in /models."""

import os
from pathlib import Path

CONFIG = "config.json"
WEIGHTS = ".safetensors"
CONVENTION = "models"
DEEPEST = 4


def model_folder(root: Path) -> Path:
    """The folder that an engine loads: the root, unless exactly one folder further down contains a model.

    With several at the same depth, it is the root, and the inspection reports what is missing.
    """
    if (root / CONFIG).exists() or not (found := _models_below(root)):
        return root
    if root / CONVENTION in found:
        return root / CONVENTION
    shallowest = min(_depth(root, folder) for folder in found)
    nearest = [folder for folder in found if _depth(root, folder) == shallowest]
    return nearest[0] if len(nearest) == 1 else root


def _models_below(root: Path) -> list[Path]:
    """Folders with a configuration and weights. Links to folders are not followed."""
    found = []
    for name, folders, files in os.walk(root):
        folder = Path(name)
        if CONFIG in files and any(file.endswith(WEIGHTS) for file in files):
            found.append(folder)
        if _depth(root, folder) == DEEPEST:
            folders.clear()
    return found


def _depth(root: Path, folder: Path) -> int:
    return len(folder.relative_to(root).parts)
