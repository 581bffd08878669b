"""The codes of an inspection's findings, and the error that ends it."""

from collections.abc import Sequence
from typing import Literal

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_engine.errors import EngineError

MOST_NAMES = 4

Severity = Literal["refused", "repaired", "note"]


class CheckpointError(EngineError, ValueError):
    """The checkpoint cannot be read at all."""

    remedy: str

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.code = code

    def as_finding(self) -> CheckpointFinding:
        return CheckpointFinding(self.code, "refused", self.message, self.remedy, without_plugin="does not start")


def abbreviated(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


CODES = {
    "NotFound": "the checkpoint does not exist, or cannot be read",
    "NoConfig": "config.json is missing or is not a JSON object",
    "BadConfig": "config.json lacks a size, or has an invalid one",
    "OtherModel": "the checkpoint belongs to another model",
    "NoWeights": "there is no safetensors file",
    "ForeignFormat": "the files are in a format other than safetensors",
    "Subfolder": "the checkpoint is in a subfolder",
    "ForeignQuantisation": "the weights were quantised by a tool whose format is not served here",
    "TooLarge": "the weights do not fit into two GPUs",
    "PrunedExperts": "the number of experts is not that of DeepSeek-V4-Flash, or not the one in config.json",
    "SurplusTensor": "tensors that the model does not use",
    "DrafterMismatch": "config.json describes another kind of drafter than the files have",
    "BadIndex": "model.safetensors.index.json cannot be read",
    "MissingShard": "the index names a file that does not exist",
    "UnlistedShard": "a file is not in the index, so vLLM ignores it",
    "IndexMismatch": "the index disagrees with a file's header",
    "BadHeader": "a file does not start with a valid safetensors header",
    "TruncatedShard": "a file is shorter than its header says",
    "DuplicateTensor": "a tensor is in two files",
    "UnknownLayout": "the tensors are stored in an unknown layout",
    "MissingTensor": "tensors are missing",
    "WrongShape": "tensors have the wrong shape for this model",
    "WrongType": "tensors have the wrong data type for their layout",
    "StoredOtherwise": "some matrices are stored differently from the others of their kind",
    "UnknownTensor": "the model does not have these tensors",
    "MisnamedTensor": "tensors have names that vLLM does not look for",
    "Downcast": "tensors that should have 32 bits were saved with fewer",
    "MtpMissing": "speculation is enabled, but the checkpoint has no head for it",
    "DsparkWanted": "the checkpoint drafts with DSpark, but MTP is requested",
    "Fp8Compressor": "compressor and indexer weights are FP8, but vLLM builds them unquantised",
    "TopkMethod": "config.json lacks topk_method",
    "NoQuantisation": "config.json has no quantization_config, or an unknown quant_method",
    "QuantisationTargets": "quantization_config does not match how the layers are stored",
    "ActivationOrder": "quantization_config names an activation order that the files do not use",
    "AccessDenied": "the hub denies access",
    "NoSuchRepository": "the hub has no such repository or revision",
    "Unreachable": "the hub cannot be reached",
    "RevisionMoved": "a branch points at another commit than before",
    "NotPinned": "the revision is a branch or is not set, so it can move",
}
"""All codes of findings, with their meaning."""
