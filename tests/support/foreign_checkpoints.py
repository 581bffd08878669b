"""Examples of what other tools make: a DeepSeek-V4 in their quantisations, and names of files in their formats.

Each row of the tables in flash_engine.checkpoint has an example here, in the shape in which its tool writes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fake_checkpoint import FakeCheckpoint, Tensor

Parts = Callable[[int, int], dict[str, Tensor]]
"""The tensors of a quantised matrix with these rows and columns, by suffix."""


def packed_int32(rows: int, columns: int, *extra: str) -> dict[str, Tensor]:
    """GPTQ's: codes packed along the input, zero points and scales for each group."""
    groups = max(columns // 128, 1)
    made = {
        "qweight": Tensor("I32", (columns // 8, rows)),
        "qzeros": Tensor("I32", (groups, rows // 8)),
        "scales": Tensor("F16", (groups, rows)),
    }
    return {**made, **{name: Tensor("I32", (columns,)) for name in extra}}


def int8(rows: int, columns: int, *extra: str) -> dict[str, Tensor]:
    """Full width, with a scale for each row."""
    scales = {name: Tensor("F32", (rows, 1)) for name in ("weight_scale", *extra)}
    return {"weight": Tensor("I8", (rows, columns)), **scales}


def mlx(rows: int, columns: int) -> dict[str, Tensor]:
    scales = {name: Tensor("BF16", (rows, columns // 64)) for name in ("scales", "biases")}
    return {"weight": Tensor("U32", (rows, columns // 8)), **scales}


def only(**tensors: str) -> Parts:
    """A few tensors of these types, whose shapes say nothing."""
    return lambda rows, _columns: {name.replace("__", "."): Tensor(kind, (rows, 1)) for name, kind in tensors.items()}


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A DeepSeek-V4 of another tool. `name` is what the message must say."""

    name: str
    config: Mapping[str, Any] | None
    """`quantization_config`; None if there is none."""
    parts: Parts
    file: str = ""
    """One that lies beside the weights."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of config.json."""
    in_vllm: bool = True

    def make(self) -> FakeCheckpoint:
        made = FakeCheckpoint.make("seed")
        made.config.pop("quantization_config")
        made.config.update(self.more)
        if self.config is not None:
            made.config["quantization_config"] = dict(self.config)
        made.tensors = repacked(made, self.parts)
        return made


def repacked(made: FakeCheckpoint, parts: Parts) -> dict[str, Tensor]:
    """All matrices that are quantised in the seed's layout, stored in another way."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in made.tensors.items():
        module, _, part = name.rpartition(".")
        is_fp8 = part == "weight" and f"{module}.weight_scale" in made.tensors
        if part == "weight_packed" or is_fp8:
            columns = tensor.shape[1] * (8 if part == "weight_packed" else 1)
            tensors.update({f"{module}.{suffix}": one for suffix, one in parts(tensor.shape[0], columns).items()})
        elif part not in ("weight_scale", "weight_shape"):
            tensors[name] = tensor
    return tensors


def gptq(rows: int, columns: int) -> dict[str, Tensor]:
    return packed_int32(rows, columns, "g_idx")


def modelslim(rows: int, columns: int) -> dict[str, Tensor]:
    return int8(rows, columns, "weight_offset")


FOREIGN = (
    ForeignCheckpoint("AutoRound", {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_gptq"},
                      packed_int32),
    ForeignCheckpoint("AutoRound", {"quant_method": "intel/auto-round", "bits": 2}, packed_int32),
    ForeignCheckpoint("GPTQ", {"quant_method": "gptq", "bits": 4, "desc_act": True}, gptq),
    ForeignCheckpoint("GPTQ", None, gptq, "quantize_config.json"),
    ForeignCheckpoint("AWQ", {"quant_method": "awq", "version": "gemm", "zero_point": True}, packed_int32),
    ForeignCheckpoint("GPTQ or AWQ", None, packed_int32),
    ForeignCheckpoint("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_4bit": True},
                      only(weight="U8", weight__absmax="F32", weight__quant_map="F32"), in_vllm=False),
    ForeignCheckpoint("bitsandbytes", None, only(weight="U8", weight__absmax="F32"), in_vllm=False),
    ForeignCheckpoint("bitsandbytes (INT8)", None, only(weight="I8", SCB="F32"), in_vllm=False),
    ForeignCheckpoint("HQQ", {"quant_method": "hqq"}, only(W_q="U8", scale="F16"), in_vllm=False),
    ForeignCheckpoint("EXL2", {"quant_method": "exl2"}, only(q_weight="I32", q_scale="I32"), in_vllm=False),
    ForeignCheckpoint("EXL3", {"quant_method": "exl3"}, only(trellis="I16", suh="F16", svh="F16"), in_vllm=False),
    ForeignCheckpoint("EXL3", None, only(trellis="I16", suh="F16"), in_vllm=False),
    ForeignCheckpoint("AQLM", {"quant_method": "aqlm"}, only(codes="I16", codebooks="F16"), in_vllm=False),
    ForeignCheckpoint("ModelSlim", None, modelslim, "quant_model_description.json", in_vllm=False),
    ForeignCheckpoint("ModelSlim", {"quant_method": "ascend"}, modelslim, in_vllm=False),
    ForeignCheckpoint("ModelSlim", None, int8, "quant_model_description_w8a8.json", in_vllm=False),
    ForeignCheckpoint("ModelOpt", {"quant_method": "modelopt", "quant_algo": "FP8"},
                      only(weight="F8_E4M3", weight_scale="F32", input_scale="F32"), "hf_quant_config.json"),
    ForeignCheckpoint("Quark", {"quant_method": "quark"}, only(weight="U8", weight_scale="U8")),
    ForeignCheckpoint("torchao", {"quant_method": "torchao"}, only(_weight_qdata="I8", _weight_scale="F32")),
    ForeignCheckpoint("MXFP4 in gpt-oss's packing", {"quant_method": "mxfp4"}, only(blocks="U8", scales="U8")),
    ForeignCheckpoint("FBGEMM", {"quant_method": "fbgemm_fp8"}, only(weight="F8_E4M3", weight_scale="F32")),
    ForeignCheckpoint("MLX", {"group_size": 64, "bits": 4}, mlx, more={"quantization": {"bits": 4}}, in_vllm=False),
    ForeignCheckpoint("MLX", None, only(weight="U32", scales="U8"), more={"quantization": {"mode": "mxfp4"}},
                      in_vllm=False),
    ForeignCheckpoint("asymmetric", {"quant_method": "compressed-tensors", "format": "pack-quantized"},
                      only(weight_packed="I32", weight_scale="BF16", weight_zero_point="I32", weight_shape="I64")),
    ForeignCheckpoint("the quant_method 'novel'", {"quant_method": "novel"}, only(weight="I8"), in_vllm=False),
)  # fmt: skip


def compressed_tensors(weights: Mapping[str, Any], activations: Mapping[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": dict(weights), "input_activations": activations}
    return {"quant_method": "compressed-tensors", "format": "other-quantized", "config_groups": {"group_0": group}}


UNKNOWN_LAYOUTS = {
    "int8 channel": (compressed_tensors({"num_bits": 8, "type": "int", "strategy": "channel"}, None), int8),
    "float8 channel": (
        compressed_tensors({"num_bits": 8, "type": "float", "strategy": "channel"}, None),
        only(weight="F8_E4M3", weight_scale="BF16"),
    ),
    "float8 tensor": (
        compressed_tensors({"num_bits": 8, "type": "float", "strategy": "tensor"}, None),
        lambda rows, columns: {"weight": Tensor("F8_E4M3", (rows, columns)), "weight_scale": Tensor("F32", (1,))},
    ),
    "int4 group of 32": (
        compressed_tensors({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}, None),
        lambda rows, columns: {
            "weight_packed": Tensor("I32", (rows, columns // 8)),
            "weight_scale": Tensor("BF16", (rows, columns // 32)),
            "weight_shape": Tensor("I64", (2,)),
        },
    ),
}
"""By what config.json says: schemes of compressed-tensors that no layout here has. The last one is of attention."""

FILES = {
    "an interrupted download": ("model-00001-of-00046.safetensors.incomplete",),
    "an archive that was not unpacked": ("config.json", "v4.tar.gz"),
    "a LoRA adapter without its model": ("adapter_config.json", "adapter_model.safetensors"),
    "GGUF, the format of llama.cpp": ("UD-Q4_K_XL/v4-00001-of-00005.gguf", "config.json"),
    "GGML, llama.cpp's old format": ("ggml-model-q4_0.bin",),
    "llamafile": ("v4.llamafile",),
    "a TensorRT-LLM engine": ("config.json", "rank0.engine", "rank1.engine"),
    "a TensorRT-LLM checkpoint": ("config.json", "rank0.safetensors", "rank1.safetensors"),
    "ONNX": ("config.json", "onnx/model.onnx", "onnx/model.onnx_data"),
    "OpenVINO": ("config.json", "openvino_model.xml", "openvino_model.bin"),
    "MLC-LLM": ("mlc-chat-config.json", "params_shard_0.bin"),
    "MLX weights (NumPy archives)": ("config.json", "weights.00.npz"),
    "Core ML": ("v4.mlpackage/Data/weights.bin",),
    "LiteRT or TensorFlow Lite": ("v4.litertlm",),
    "ExecuTorch": ("v4.pte",),
    "TensorFlow": ("config.json", "tf_model.h5"),
    "Flax": ("config.json", "flax_model.msgpack"),
    "a NeMo archive": ("v4.nemo",),
    "a training checkpoint (distributed or sharded)": ("config.json", "global_step100/mp_rank_00_model_states.pt"),
    "CTranslate2": ("config.json", "model.bin", "shared_vocabulary.json"),
    "a diffusion pipeline": ("model_index.json", "transformer/config.json", "transformer/model.safetensors"),
    "tensorizer files": ("config.json", "model.tensors"),
    "Meta's original format": ("consolidated.00.pth", "params.json"),
    "Mistral's format": ("params.json", "consolidated.safetensors"),
    "PyTorch pickles": ("config.json", "pytorch_model-00001-of-00002.bin", "onnx/model.onnx", "tf_model.h5"),
    "PyTorch pickles under other names": ("config.json", "model.pt", "training_args.bin"),
}
"""By the name of the format: the files of a folder."""
