"""Lists every document that the parts exchange: its class, the part that writes it and the parts that read it.

    python hack/documents.py

docs/architecture.md has a table of what each one contains.
"""

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import flash_contracts
from flash_contracts.document import Document
from flash_contracts.gate_config import GateConfig

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "operator": "operator/flash_operator",
    "launcher": "images/engine/flash_engine/launcher",
    "gate": "images/engine/flash_engine/gate",
    "flash-drain": "images/engine/flash_engine/drain",
    "flash-fetch": "images/engine/flash_engine/model_download",
    "flash-checkpoint": "images/engine/flash_engine/checkpoint",
    "flash-p2p-test": "images/engine/flash_engine/p2p_test",
    "vLLM plugin": "images/engine/flash_engine/plugin",
    "labeller": "images/node/flash_node",
    "quantiser": "images/quantiser/mtp_quantiser",
}
"""Folder of each part that writes or reads documents."""

PRIVATE = {
    "trial.json": ("gate", "trial_store.py"),
    "unpacked.json": ("flash-fetch", "unpacking.py"),
    "mtp-restoration.json": ("quantiser", "restoration.py"),
}
"""Documents without a class in the contracts, because only the part that writes them reads them: part and module."""

DocumentClass = type[Document] | type[GateConfig]


def documents() -> list[DocumentClass]:
    """Classes of whole documents, not of their parts, sorted by name."""
    for module in walk_packages(flash_contracts.__path__, "flash_contracts."):
        import_module(module.name)
    found = {cls for cls in _subclasses(Document) if cls.IS_VERSIONED and cls.__module__.startswith("flash_contracts.")}
    return sorted({*found, GateConfig}, key=lambda cls: cls.__name__)


def _subclasses(cls: type[Document]) -> Iterator[type[Document]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def importers(cls: DocumentClass) -> set[str]:
    """The parts that contain a module that imports the class."""
    return {
        part
        for part, folder in PARTS.items()
        if any(cls.__name__ in _imported(path) for path in (ROOT / folder).rglob("*.py"))
    }


def _imported(path: Path) -> set[str]:
    imports = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    return {name.name for node in imports for name in node.names}


def main() -> int:
    for cls in documents():
        print(f"{cls.__name__}  ({cls.__module__})")
        print(f"    written by  {cls.WRITER}")
        print(f"    read by     {', '.join(cls.READERS)}")
    for name, (part, module) in PRIVATE.items():
        print(f"{name}  ({PARTS[part]}/{module})")
        print(f"    private to  {part}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
