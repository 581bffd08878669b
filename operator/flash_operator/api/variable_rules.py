"""CEL rules for variables that are refused by name, in `engine.extraEnv` and `interconnect.env`.

One rule for a table and not one for each variable, as in `refused_options`. Its message names the variables that were
written, and what to do about each.
"""

from collections.abc import Mapping

from flash_contracts.variable_aliases import HUB_TOKEN
from flash_operator.api.expressions import choice, first_texts, literals
from flash_operator.api.rule import Rule

_IN_POD_TEMPLATE = "the operator sets it; override it in podTemplate"
_LOADS_CODE = (
    "it loads other code into the launcher and flash-drain as well; build it into an image, and name that in "
    "engine.image"
)
_GPUS = "the device plugin gives the pod its two GPUs; remove it"
_OF_THE_LINK = "it belongs in interconnect.env, where it wins over the derived ones"

GPU_CHOICES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")

_EVERYWHERE = {
    "NCCL_SHM_DISABLE": "without shared memory NCCL falls back to sockets; remove it",
    **dict.fromkeys(GPU_CHOICES, _GPUS),
    "VLLM_DP_*": "a replica is one engine, without data parallelism; raise replicas",
    **dict.fromkeys(
        HUB_TOKEN,
        "anyone who may read pods can read a token here; for an hf:// source put it into a Secret, and name that in "
        "model.credentialsSecret; for others remove it, as the engine never contacts a hub",
    ),
    "VLLM_API_KEY": "anyone who may read pods can read a key here; put keys into a Secret, and name the Secret in "
    "engine.apiKeysSecret",
}

EXTRA_VARIABLES = {
    **_EVERYWHERE,
    "FLASH_*": "the operator reserves names that begin with FLASH_; choose another name",
    # The API server rejects a pod template with two entries of the same name.
    **dict.fromkeys(("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_OFFLINE"), _IN_POD_TEMPLATE),
    # PATH is not among them: it only chooses programs, and whoever may set it may choose the image as well.
    "LD_*": _LOADS_CODE,
    **dict.fromkeys(
        ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "BASH_ENV", "GCONV_PATH"), _LOADS_CODE
    ),
    **dict.fromkeys(("CUDA_INJECTION64_PATH", "NVTX_INJECTION64_PATH"), _LOADS_CODE),
    "HF_ENDPOINT": "it has no effect, because the engine never contacts a hub; use model.hubEndpoint",
    "NCCL_*": _OF_THE_LINK,
    "VLLM_ALLREDUCE_*": _OF_THE_LINK,
}
"""Variables that `engine.extraEnv` must not set, each with what to do instead. A star stands for any end of the name.
The first one that fits counts."""

LINK_VARIABLES = {
    **_EVERYWHERE,
    "VLLM_PLUGINS": "it has nothing to do with the GPUs' link; put it into engine.extraEnv",
}
"""Likewise for `interconnect.env`."""


def refused_variables(table: Mapping[str, str]) -> Rule:
    """The rule for a list of variables."""
    groups = {instead: [name for name in table if table[name] == instead] for instead in table.values()}
    texts = {" || ".join(_are(names)): instead for instead, names in groups.items()}
    is_one = " || ".join(_are(table))
    named = "'%s is not allowed here: %s'.format([n, " + choice(texts) + "])"
    return Rule(
        f"!self.map(v, v.name).exists(n, {is_one})",
        f"these variables are not allowed here: {', '.join(table)}",
        message_expression=first_texts(f"self.map(v, v.name).filter(n, {is_one}).map(n, {named})"),
    )


def _are(names: Mapping[str, str] | list[str]) -> list[str]:
    """Conditions of which one holds if `n` is one of these."""
    whole = [name for name in names if not name.endswith("*")]
    begins = [f"n.startsWith('{name.removesuffix('*')}')" for name in names if name.endswith("*")]
    return [*([f"n in {literals(whole)}"] if whole else []), *begins]
