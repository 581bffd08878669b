"""One thing that is to be said of a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["refused", "repaired", "note"]
"""refused: it cannot be served as asked. repaired: the plugin loads it nevertheless. note: it is served as it is."""

SHOWN = 4


class CheckpointError(ValueError):
    """The checkpoint cannot even be read. The message says what is wrong and what to do."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(f"{message}: {remedy}")
        self.code, self.message, self.remedy = code, message, remedy

    def as_finding(self) -> "Finding":
        return Finding(self.code, "refused", self.message, self.remedy, without_plugin="does not start")


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and what to do."""

    code: str
    """One word for programs, as in CODES."""
    severity: Severity
    message: str
    remedy: str
    tensors: tuple[str, ...] = ()
    """All tensors that it speaks of."""
    without_plugin: str = ""
    """What vLLM 0.33.0 would do with it by itself."""

    @property
    def sentence(self) -> str:
        return f"{self.message}: {self.remedy}"

    def to_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "remedy": self.remedy,
            "tensors": list(self.tensors),
            "withoutPlugin": self.without_plugin,
        }


def named(names: Sequence[str]) -> str:
    """The first few of many names, and how many there are."""
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


CODES = {
    "NotFound": "there is no checkpoint where one should be",
    "NoConfig": "config.json is missing or is no JSON object",
    "BadConfig": "config.json lacks a size, or has one that cannot be",
    "OtherModel": "it is a checkpoint of another model",
    "NoWeights": "there is no safetensors file",
    "BadIndex": "model.safetensors.index.json cannot be read",
    "MissingShard": "the index names a file that is not there",
    "UnlistedShard": "a file is not in the index, so vLLM leaves it out",
    "IndexMismatch": "the index and a file's header disagree",
    "BadHeader": "a file's header is no safetensors header",
    "TruncatedShard": "a file ends before its last tensor does",
    "DuplicateTensor": "a tensor is in two files",
    "UnknownLayout": "the tensors are stored in no known way",
    "MissingTensor": "tensors are missing",
    "WrongShape": "tensors have another shape than the model needs",
    "WrongType": "tensors have another data type than their layout says",
    "UnknownTensor": "tensors that the model has no place for",
    "MisnamedTensor": "tensors under another name than vLLM looks for",
    "Downcast": "tensors that should be 32 bits wide were saved narrower",
    "MtpMissing": "speculation is wanted and the head for it is not there",
    "DsparkWanted": "the checkpoint drafts with DSpark, and MTP is wanted",
    "Fp8Compressor": "compressor and indexer weights are FP8, and vLLM builds them unquantised",
    "TopkMethod": "config.json lost topk_method",
    "NoQuantisation": "config.json has no quantization_config",
    "QuantisationTargets": "quantization_config describes other layers than the files hold",
    "ActivationOrder": "quantization_config names an activation order that nothing in the files has",
    "AccessDenied": "the hub refuses access",
    "NoSuchRepository": "the hub knows no such repository or revision",
    "Unreachable": "the hub cannot be reached",
    "RevisionMoved": "a branch points at another commit than before",
    "NotPinned": "the revision is a branch, which can move",
}
"""The vocabulary of findings."""
