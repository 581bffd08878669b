"""A table of other model families, so that messages can name the model.

A family is recognised by `model_type` or the architecture in config.json; the first row that matches wins. To add one,
add a row.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelFamily:
    """One row. `patterns` match the architecture or `model_type`."""

    name: str
    patterns: tuple[str, ...]
    published_gib: int | None = None
    """Size of the smallest published weights, if two cards cannot hold them."""
    is_drafter: bool = False


FAMILIES = (
    ModelFamily(
        "a drafter without its model",
        ("*MTPModel", "*MTP", "*DSpark*", "Eagle*", "*Eagle", "*Eagle3", "*EagleModel", "*Medusa*", "*DFlash*",
         "*Speculator*", "MLPSpeculator*"),
        is_drafter=True,
    ),
    ModelFamily("DeepSeek-V4.1", ("DeepseekV41*", "deepseek_v41*"), published_gib=475),
    ModelFamily("DeepSeek-V4 with vision", ("DeepseekV4ForConditionalGeneration",)),
    ModelFamily("a later DeepSeek-V4", ("DeepseekV4[0-9]*", "deepseek_v4[0-9]*")),
    ModelFamily("a later DeepSeek", ("DeepseekV[5-9]*", "deepseek_v[5-9]*")),
    ModelFamily("DeepSeek-V3.2", ("DeepseekV32*", "deepseek_v32"), published_gib=642),
    ModelFamily("Kimi", ("Kimi*", "kimi*")),
    ModelFamily("DeepSeek-V3 or R1", ("DeepseekV3*", "deepseek_v3")),
    ModelFamily("DeepSeek-V2", ("DeepseekV2*", "deepseek_v2")),
    ModelFamily("a DeepSeek vision model", ("DeepseekVL*", "DeepseekOCR*", "*Janus*")),
    ModelFamily("GLM", ("Glm*", "ChatGLM*", "glm*")),
    ModelFamily("Qwen", ("Qwen*", "QWen*", "qwen*")),
    ModelFamily("MiniMax", ("MiniMax*", "minimax*")),
    ModelFamily("gpt-oss", ("GptOss*", "gpt_oss")),
    ModelFamily("Llama", ("Llama*", "llama*", "Mllama*")),
    ModelFamily("Mistral", ("Mistral*", "Mixtral*", "Pixtral*", "Ministral*", "mistral*")),
    ModelFamily("Gemma", ("Gemma*", "gemma*")),
    ModelFamily("Nemotron", ("Nemotron*", "*Nemotron*")),
    ModelFamily("Hunyuan", ("Hun*Yuan*", "Hunyuan*")),
    ModelFamily("Ernie", ("Ernie*",)),
    ModelFamily("Phi", ("Phi*", "phi*")),
    ModelFamily("Granite", ("Granite*",)),
    ModelFamily("Step", ("Step*",)),
    ModelFamily("Ling", ("Bailing*", "Ling*")),
)  # fmt: skip


def family_of(raw: Mapping[str, Any]) -> ModelFamily | None:
    """`raw` is config.json."""
    names = [str(raw.get("model_type") or ""), *architectures(raw)]
    fitting = (one for one in FAMILIES if any(fnmatch.fnmatchcase(name, p) for name in names for p in one.patterns))
    return next(fitting, None)


def architectures(raw: Mapping[str, Any]) -> list[str]:
    """The architectures that config.json names. TensorRT-LLM writes one as `architecture`."""
    found = raw.get("architectures")
    named = found if isinstance(found, list) else [found or raw.get("architecture")]
    return [name for name in named if isinstance(name, str) and name]
