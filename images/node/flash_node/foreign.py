"""Recognises what people attach instead of a dump: the output of other tools, and truncated or mixed dumps.

It runs only after a file has turned out not to be a valid dump.
"""

import codecs
import json
import re
from collections.abc import Mapping

MATRIX = "the output of `nvidia-smi topo`, which lacks the readings of NVML and /sys"

MAGIC = {
    b"\x1f\x8b": "a gzip archive, such as nvidia-bug-report.log.gz",
    b"PK\x03\x04": "a zip archive",
    b"\x89PNG": "a picture",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

TEXTS = (
    (re.compile(r"ROCm System Management|\bbetween two GPUs\b|\bXGMI\b|\bAMD-SMI\b"), "a topology of AMD GPUs"),
    (re.compile(r"^\s*GPU\d+\s+(?:GPU\d+|NIC\d+|CPU Affinity|X\b|OK\b|[A-Z]{2,4}\d*\b)", re.MULTILINE), MATRIX),
    (re.compile(r"^\s*Legend:\s*$[\s\S]*^\s*(?:X|SYS|OK)\s*=", re.MULTILINE), MATRIX),
    (re.compile(r"<svg\b"), "a picture that `flash-topology --svg` drew"),
    (re.compile(r"<nvidia_smi_log\b"), "the output of `nvidia-smi -q -x`"),
    (re.compile(r"<topology\b"), "the XML of lstopo (hwloc)"),
    (re.compile(r"<(?:system|graphs)\s+version="), "a topology or graph of NCCL (NCCL_TOPO_DUMP_FILE)"),
    (re.compile(r"deepseekflash\.dev/\s|^ row T\d", re.MULTILINE), "the report of flash-topology instead of its dump"),
    (re.compile(r"=+NVSMI LOG=+"), "the output of `nvidia-smi -q`"),
    (re.compile(r"\|\s*NVIDIA-SMI\s"), "the output of `nvidia-smi`"),
    (re.compile(r"^GPU \d+: .*\(UUID: ", re.MULTILINE), "the output of `nvidia-smi -L`"),
    (re.compile(r"^\s*index,|, ?(?:pci\.bus_id|uuid|name)\b.*,", re.MULTILINE), "a table of `nvidia-smi --query-gpu`"),
    (re.compile(r"^[0-9a-f:]+\.[0-7] .*(?:controller|bridge|\[10de)", re.MULTILINE | re.IGNORECASE), "output of lspci"),
    (re.compile(r"^Machine \(|^Package L#0|^\s+NUMANode L#", re.MULTILINE), "the output of lstopo (hwloc)"),
    (re.compile(r"^available: \d+ nodes", re.MULTILINE), "the output of `numactl --hardware`"),
    (re.compile(r"^Architecture:\s", re.MULTILINE), "the output of lscpu"),
    (re.compile(r"^apiVersion:\s|^kind:\s*Node\b", re.MULTILINE), "an object of Kubernetes, as YAML"),
    (re.compile(r"^Name:\s+\S+[\s\S]*^Labels:\s", re.MULTILINE), "the output of `kubectl describe`"),
    (re.compile(r"\bflash-topology: "), "a message of flash-topology"),
    (re.compile(r"^\s*<"), "XML or HTML of another tool"),
)  # fmt: skip
"""The first match decides."""

DUMP_KEYS = frozenset({"node", "takenAt", "gpus", "pairs"})
DUMP_KEY = '"takenAt"'


def decoded(content: bytes) -> str | None:
    """The text of a file; None if it is binary. Windows redirects as UTF-16, and editors add a byte order mark."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def foreign_format(content: bytes) -> str | None:
    """What the file is, as `it is ...`. None for JSON that may be meant as a dump: its own faults are more useful."""
    magic = next((name for start, name in MAGIC.items() if content.startswith(start)), None)
    if magic:
        return f"it is {magic}"
    text = decoded(content)
    if text is None:
        return "it is not text"
    text = _COLOUR.sub("", text).strip()
    if not text:
        return "it is empty"
    if text[0] in "{[":
        return _json_fault(text)
    if DUMP_KEY in text:
        return "other text precedes the dump: leave only what is between its outer braces"
    found = next((name for shape, name in TEXTS if shape.search(text)), None)
    return f"it is {found}" if found else "it is text, not JSON"


def _json_fault(text: str) -> str | None:
    try:
        document, end = json.JSONDecoder().raw_decode(text)
    except RecursionError:
        return "it is JSON of another tool"
    except json.JSONDecodeError as error:
        return _cut_or_wrong(text, error)
    if text[end:].strip():
        return "other text follows the JSON: leave only what is between its outer braces"
    return _json_of(document) if isinstance(document, Mapping) and not DUMP_KEYS & set(document) else None


def _cut_or_wrong(text: str, error: json.JSONDecodeError) -> str:
    rest = text[error.pos :].strip()
    if "Unterminated string" in error.msg or any(literal.startswith(rest) for literal in ("true", "false", "null")):
        return "it is truncated: copy the whole of it"
    return f"it is not valid JSON: {error}"


def _json_of(document: Mapping[str, object]) -> str | None:
    if {"apiVersion", "kind"} & set(document):
        return f"it is an object of Kubernetes ({document.get('kind')}), which has labels but no readings"
    if "verdict" in document:
        return "it is the report of a p2p test"
    keys = ", ".join(map(repr, list(document)[:4]))[:120]
    return f"it is JSON of another tool, with the keys {keys}" if document else None
