"""A table of model formats other than a folder with config.json and safetensors, and what serves each.

A format is recognised by the names of its files; the first row that matches wins. To add one, add a row and an example
to tests/support/foreign_checkpoints.py.
"""

import fnmatch
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

Served = Literal["yes", "maybe", "no"]
"""Whether vLLM 0.26 to 0.33 serves it with engine.profile Custom. maybe: if engine.image has a plugin or another
version."""


@dataclass(frozen=True)
class FileFormat:
    """One row. `patterns` match the names of files, or paths if they contain a slash."""

    name: str
    patterns: tuple[str, ...]
    served: Served
    served_by: str
    """What serves it or converts it to safetensors."""
    is_unfinished: bool = False
    """Not a finished format, such as a partial download: `served_by` says how to finish it."""
    has_subfolders: bool = False
    """Whether its safetensors are in subfolders, none of which is a model of its own."""

    def files(self, paths: Iterable[str]) -> list[str]:
        """The files of this format, sorted. Those that vLLM loads must be in the folder itself."""
        found = sorted(path for path in paths if any(matches(path, pattern) for pattern in self.patterns))
        return [path for path in found if "/" not in path] if self.served == "yes" else found


def matches(path: str, pattern: str) -> bool:
    """Whether a path matches. A pattern without a slash matches the file's name in any folder."""
    name = path if "/" in pattern else PurePosixPath(path).name
    return fnmatch.fnmatchcase(name.lower(), pattern.lower())


CONVERT = "convert it to safetensors"

GGUF = FileFormat("GGUF, the format of llama.cpp", ("*.gguf",), "maybe", "llama.cpp and Ollama serve it")
GGUF_MAGIC = b"GGUF"

FORMATS = (
    # vLLM's usual format comes first: older repositories contain the same weights in other formats too.
    FileFormat("PyTorch pickles", ("pytorch_model*.bin",), "yes", CONVERT),
    FileFormat(
        "a LoRA adapter without its model",
        ("adapter_config.json", "adapter_model*.safetensors", "adapter_model*.bin"),
        "no",
        "merge it into its model, or serve that with --enable-lora and --lora-modules=NAME=FOLDER in engine.extraArgs",
    ),
    GGUF,
    FileFormat("GGML, llama.cpp's old format", ("ggml-*.bin", "*.ggml", "*.ggmlv3*"), "no", "convert it to GGUF"),
    FileFormat("llamafile", ("*.llamafile",), "no", "run it as a program"),
    FileFormat(
        "a TensorRT-LLM engine", ("*.engine", "*.plan"), "no",
        "TensorRT-LLM serves it, on the GPU model that it was built for",
    ),
    FileFormat("a TensorRT-LLM checkpoint", ("rank*.safetensors",), "no", "TensorRT-LLM builds an engine from it"),
    FileFormat(
        "ONNX", ("*.onnx", "*.onnx_data", "*.onnx.data", "onnx/*"), "no", "ONNX Runtime runs it"
    ),
    FileFormat("OpenVINO", ("openvino*.xml", "openvino*.bin"), "no", "OpenVINO Model Server serves it"),
    FileFormat("MLC-LLM", ("mlc-chat-config.json", "params_shard_*.bin"), "no", "MLC-LLM runs it"),
    FileFormat("MLX weights (NumPy archives)", ("weights*.npz", "*.npz"), "no", "MLX runs it on Apple silicon"),
    FileFormat("Core ML", ("*.mlmodel", "*.mlpackage/*", "*.mlmodelc/*"), "no", "Core ML runs it on Apple devices"),
    FileFormat("LiteRT or TensorFlow Lite", ("*.tflite", "*.litertlm"), "no", "LiteRT runs it"),
    FileFormat("ExecuTorch", ("*.pte",), "no", "ExecuTorch runs it"),
    FileFormat("TensorFlow", ("tf_model*.h5", "*.h5", "*.keras", "saved_model.pb", "*.ckpt.index"), "no", CONVERT),
    FileFormat("Flax", ("flax_model*.msgpack", "*.msgpack", "checkpoint/_METADATA"), "no", CONVERT),
    FileFormat("a NeMo archive", ("*.nemo",), "no", "NeMo exports it to Hugging Face's format"),
    FileFormat(
        "a training checkpoint (distributed or sharded)",
        ("*.distcp", "mp_rank_*", "*mp_rank_*/*", "*_optim_states.pt", "*global_step*/*", "pytorch_model_fsdp*/*"),
        "no",
        "its training framework exports it to Hugging Face's format",
    ),
    FileFormat("CTranslate2", ("vocabulary.json", "shared_vocabulary.json"), "no", "CTranslate2 runs it"),
    FileFormat("a diffusion pipeline", ("model_index.json",), "no", "Diffusers or vLLM-Omni runs it",
               has_subfolders=True),
    FileFormat("tensorizer files", ("*.tensors",), "maybe", "vLLM loads it with --load-format=tensorizer"),
    FileFormat(
        "Meta's original format", ("consolidated*.pth",), "no",
        "its repository has safetensors too, or transformers converts it",
    ),
    FileFormat(
        "Mistral's format", ("consolidated*.safetensors", "params.json"), "yes",
        "vLLM serves it with engine.profile Custom",
    ),
    FileFormat("PyTorch pickles under other names", ("*.bin", "*.pt", "*.pth"), "yes", CONVERT),
    FileFormat(
        "an interrupted download",
        ("*.incomplete", "*.part", "*.partial", "*.aria2", "*.crdownload", "*.download", "*.tmp"),
        "no",
        "finish the download",
        is_unfinished=True,
    ),
    FileFormat(
        "an archive that was not unpacked",
        ("*.tar", "*.tar.gz", "*.tgz", "*.tar.zst", "*.zip", "*.7z", "*.safetensors.gz", "*.safetensors.zst"),
        "no",
        "unpack it",
        is_unfinished=True,
    ),
)  # fmt: skip

NOT_WEIGHTS = (
    "training_args.bin", "optimizer*.bin", "optimizer*.pt", "scheduler*.pt", "scaler*.pt", "rng_state*.pth",
    "tokenizer*.bin", "tokenizer*.pt", "*imatrix*.gguf", "mmproj*.gguf",
)  # fmt: skip
"""Files found beside weights. vLLM skips the first ones too (filter_files_not_needed_for_inference)."""


def recognise(paths: Iterable[str]) -> tuple[FileFormat, list[str]] | None:
    """The format of a folder without weights in safetensors, and its files; None if it is unknown."""
    weights = [path for path in paths if not any(matches(path, pattern) for pattern in NOT_WEIGHTS)]
    found = ((one, one.files(weights)) for one in FORMATS)
    return next(((one, files) for one, files in found if files), None)


def nested_checkpoint(paths: Collection[str]) -> str | None:
    """The subfolder with the most safetensors files beside a config.json, if its parent was given by mistake."""
    folders: Counter[str] = Counter(str(PurePosixPath(path).parent) for path in paths if path.endswith(".safetensors"))
    complete = [folder for folder in sorted(folders) if folder != "." and f"{folder}/config.json" in paths]
    return max(complete, key=lambda folder: folders[folder], default=None)
