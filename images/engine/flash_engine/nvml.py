"""Loads NVML's Python binding without importing vLLM."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_pynvml() -> ModuleType:
    """nvidia-ml-py if it is installed, otherwise vLLM's bundled copy. Raises ImportError.

    The copy is loaded by its path, because importing `vllm` would load torch into the launcher.
    """
    if importlib.util.find_spec("pynvml"):
        return importlib.import_module("pynvml")
    vllm = importlib.util.find_spec("vllm")
    for folder in (vllm.submodule_search_locations or ()) if vllm else ():
        spec = importlib.util.spec_from_file_location("flash_pynvml", Path(folder, "third_party", "pynvml.py"))
        if spec and spec.loader:
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise ModuleNotFoundError("neither pynvml nor vLLM's copy of it is installed")
