"""A table of other tools' quantisations, so that such a checkpoint is identified and not reported as damaged.

A row is recognised by `quant_method` in config.json, or by names of tensors or files that only its tool writes; the
first row that matches wins. To add one, add a row and an example to tests/support/foreign_checkpoints.py.
"""

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flash_engine.checkpoint.headers import StoredTensor
from flash_engine.checkpoint.model_config import quant_method, quantisation_of


@dataclass(frozen=True)
class ForeignQuantisation:
    """One row."""

    name: str
    methods: tuple[str, ...] = ()
    """Values of `quant_method`, as patterns."""
    parts: tuple[str, ...] = ()
    """Suffixes of tensor names, such as `qweight`; the tool writes all of them for each matrix."""
    files: tuple[str, ...] = ()
    """Files that the tool writes beside the weights, as patterns."""
    keys: tuple[str, ...] = ()
    """Keys of config.json that only the tool writes."""
    in_vllm: bool = True
    """Whether vLLM 0.33 reads it in other models (model_executor/layers/quantization/__init__.py)."""


QUANTISATIONS = (
    ForeignQuantisation(
        "AutoRound (INT4 in the packing of GPTQ or AWQ)", ("auto-round*", "auto_round*", "intel/auto-round", "inc"),
    ),
    ForeignQuantisation(
        "ModelSlim for Ascend NPUs (INT8 W8A8, or W4A8)", ("ascend", "modelslim", "w8a8*", "w4a8*"), ("weight_offset",),
        ("quant_model_description*.json", "quant_model_weight*"), in_vllm=False,
    ),
    ForeignQuantisation("AWQ", ("awq*", "auto_awq", "gemm"), files=("quant_config.json",)),
    ForeignQuantisation("GPTQ", ("gptq*", "auto_gptq", "marlin"), ("qweight", "g_idx"), ("quantize_config.json",)),
    ForeignQuantisation("GPTQ or AWQ", (), ("qweight", "scales")),
    ForeignQuantisation("bitsandbytes", ("bitsandbytes*", "bnb*"), ("absmax",), in_vllm=False),
    ForeignQuantisation("bitsandbytes (INT8)", (), ("SCB",), in_vllm=False),
    ForeignQuantisation("HQQ", ("hqq*",), ("W_q",), in_vllm=False),
    ForeignQuantisation("EXL3 of ExLlamaV3", ("exl3",), ("trellis",), in_vllm=False),
    ForeignQuantisation("EXL2 of ExLlamaV2", ("exl2",), ("q_weight",), in_vllm=False),
    ForeignQuantisation("AQLM", ("aqlm",), ("codebooks",), in_vllm=False),
    ForeignQuantisation("QuIP#", ("quip*",), ("Qidxs",), in_vllm=False),
    ForeignQuantisation("VPTQ", ("vptq",), ("centroids",), in_vllm=False),
    ForeignQuantisation("SpQR", ("spqr",), in_vllm=False),
    ForeignQuantisation("HIGGS", ("higgs",), in_vllm=False),
    ForeignQuantisation("EETQ", ("eetq",), in_vllm=False),
    ForeignQuantisation("BitNet", ("bitnet",), in_vllm=False),
    ForeignQuantisation("Quanto", ("quanto", "optimum-quanto"), ("_data",), in_vllm=False),
    ForeignQuantisation("SINQ", ("sinq*",), in_vllm=False),
    ForeignQuantisation("ModelOpt", ("modelopt*", "nvfp4"), files=("hf_quant_config.json",)),
    ForeignQuantisation("Quark (AMD)", ("quark*",)),
    ForeignQuantisation("torchao", ("torchao",)),
    ForeignQuantisation("MXFP4 in gpt-oss's packing", ("mxfp4", "gpt_oss_mxfp4")),
    ForeignQuantisation("FBGEMM FP8", ("fbgemm*",)),
    ForeignQuantisation("FP-Quant", ("fp_quant",)),
    ForeignQuantisation("MXFP8", ("mxfp8",)),
    ForeignQuantisation("MLX for Apple silicon", ("mlx",), ("biases", "scales"), keys=("quantization",), in_vllm=False),
    ForeignQuantisation("compressed-tensors with zero points (asymmetric INT4 or INT8)", (), ("weight_zero_point",)),
    ForeignQuantisation("compressed-tensors with 2:4 sparsity", (), ("bitmask",)),
)  # fmt: skip

KNOWN_METHODS = ("fp8", "compressed-tensors")
"""Methods of the supported layouts. For these, the tensors decide whether another tool wrote the checkpoint."""


def recognise_quantisation(
    raw: Mapping[str, Any], tensors: Mapping[str, StoredTensor], files: Iterable[str]
) -> ForeignQuantisation | None:
    """`raw` is config.json. None if nothing foreign was found, or only stray tensors."""
    method = quant_method(raw)
    if method and method not in KNOWN_METHODS:
        named = (one for one in QUANTISATIONS if any(fnmatch.fnmatchcase(method, pattern) for pattern in one.methods))
        return next(named, None) or ForeignQuantisation(f"the quant_method {method!r}", in_vllm=False)
    parts = Counter(name.rpartition(".")[2] for name in tensors)
    matrices = max(parts["scale"] + parts["weight_scale"] + parts["weight_scale_inv"], parts["weight_packed"])
    by_tensors = (one for one in QUANTISATIONS if one.parts and _is_prevalent(one.parts, parts, matrices))
    found = next(by_tensors, None)
    if found or method:
        return found
    return next((one for one in QUANTISATIONS if _left_traces(one, raw, files)), None)


def _is_prevalent(needed: Sequence[str], parts: Counter[str], matrices: int) -> bool:
    """Whether at least half of the quantised matrices have these tensors. A stray one proves nothing."""
    count = min(parts[part] for part in needed)
    return count > 0 and 2 * count >= matrices


def _left_traces(one: ForeignQuantisation, raw: Mapping[str, Any], files: Iterable[str]) -> bool:
    return any(key in raw for key in one.keys) or any(fnmatch.filter(files, pattern) for pattern in one.files)


def described(raw: Mapping[str, Any]) -> str:
    """The quantisation in config.json, such as "compressed-tensors int-quantized, weights int8 channel"."""
    quantisation = quantisation_of(raw)
    if not quantisation:
        return "no quantization_config"
    words = [quant_method(raw) or "no quant_method"]
    words += [
        str(quantisation[key]) for key in ("format", "quant_algo", "fmt") if isinstance(quantisation.get(key), str)
    ]
    groups = quantisation.get("config_groups")
    first = [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    schemes = dict.fromkeys(_scheme(group) for group in first)
    return ", ".join((" ".join(words), *schemes))


def _scheme(group: Mapping[str, Any]) -> str:
    weights, activations = group.get("weights"), group.get("input_activations")
    return f"weights {_numbers(weights)} with activations {_numbers(activations)}"


def _numbers(spec: object) -> str:
    """Such as "int8 channel"; without a spec, they are not quantised."""
    if not isinstance(spec, dict):
        return "unquantised"
    group = f" of {spec['group_size']}" if spec.get("group_size") else ""
    return f"{spec.get('type', 'int')}{spec.get('num_bits', 8)} {spec.get('strategy') or ''}{group}".strip()
