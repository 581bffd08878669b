"""Lists every document that the parts exchange: its class, the part that writes it and the parts that read it.

    python hack/documents.py

docs/architecture.md has a table of what each one contains.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import flash_contracts
from flash_contracts.document import Document
from flash_contracts.gate_config import GateConfig

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "operator": "operator/flash_operator",
    "activator": "operator/flash_operator/activator",
    "launcher": "images/engine/flash_engine/launcher",
    "gate": "images/engine/flash_engine/gate",
    "flash-drain": "images/engine/flash_engine/drain",
    "flash-measure": "images/engine/flash_engine/measure",
    "flash-fetch": "images/engine/flash_engine/model_download",
    "flash-capture": "images/engine/flash_engine/capture",
    "flash-checkpoint": "images/engine/flash_engine/checkpoint",
    "flash-p2p-test": "images/engine/flash_engine/p2p_test",
    "vLLM plugin": "images/engine/flash_engine/plugin",
    "labeller": "images/node/flash_node",
    "quantiser": "images/quantiser/mtp_quantiser",
}
"""Folder of each part that writes or reads documents."""


@dataclass(frozen=True)
class OtherDocument:
    """A document whose class or code is not in the contracts, because all its readers share one package."""

    name: str
    owner: str
    """The class or module that writes and reads it, as PATH:NAME."""
    writer: str
    shared_with: tuple[str, ...] = ()

    @property
    def readers(self) -> tuple[str, ...]:
        return self.shared_with or (self.writer,)

    @property
    def is_defined(self) -> bool:
        """Whether the owner exists."""
        path, _, name = self.owner.partition(":")
        return any(
            isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
        )


CONTRACTS = "contracts/flash_contracts"
ENGINE = "images/engine/flash_engine"
CORE = "operator/flash_operator/core"
NODE = "images/node/flash_node"
QUANTISER = "images/quantiser/mtp_quantiser"
OTHERS = (
    OtherDocument(
        "manifest.json", f"{ENGINE}/model_cache.py:ModelSnapshot", "flash-fetch", ("flash-fetch", "launcher")
    ),
    OtherDocument("unpacked.json", f"{ENGINE}/model_download/unpacking.py:LayerUnpacker", "flash-fetch"),
    OtherDocument("mtp-restoration.json", f"{QUANTISER}/restoration.py:Restoration", "quantiser"),
    OtherDocument("mtp-manifest.json", f"{QUANTISER}/shard.py:assemble", "quantiser"),
    OtherDocument("NAME-baseline", f"{CORE}/replicas/baseline.py:Baseline", "operator"),
    OtherDocument("NAME-last-known-good", f"{CORE}/rollout/rollout.py:LastKnownGood", "operator"),
    OtherDocument("NAME-HASH", f"{CORE}/rollout/template_revision.py:TemplateRevision", "operator"),
    OtherDocument("gpu-p2p-claims", f"{CONTRACTS}/p2p_claims.py:Claim", "operator", ("operator", "labeller")),
    OtherDocument("gpu-p2p-attempt", f"{CORE}/p2p_test/planner.py:P2pTestAttempt", "operator"),
    OtherDocument("ffn_input", f"{CONTRACTS}/mtp_capture.py:router_digest", "flash-capture", ("quantiser",)),
    OtherDocument("dump", f"{NODE}/dump.py:NodeDump", "labeller"),
)

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


@cache
def _imported(path: Path) -> frozenset[str]:
    imports = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    return frozenset(name.name for node in imports for name in node.names)


def main() -> int:
    for cls in documents():
        print(f"{cls.__name__}  ({cls.__module__})")
        print(f"    written by  {cls.WRITER}")
        print(f"    read by     {', '.join(cls.READERS)}")
    for other in OTHERS:
        print(f"{other.name}  ({other.owner})")
        print(f"    written by  {other.writer}")
        print(f"    read by     {', '.join(other.readers)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
