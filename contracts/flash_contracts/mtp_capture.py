"""A capture: what enters the experts of an MTP layer while a model serves, the quantiser's calibration data.

`flash-capture` writes it, `mtp-quantise` reads it. It is a folder of safetensors files, read in the order of their
names. Each holds

    ffn_input      BF16 [n, hidden]   what enters the mixture of experts: the output of mtp.0.ffn_norm
    request        I32  [n]           optional: the number of the token's request, unique among files of one recorder
    topk_ids       I32  [n, k]        optional: the experts chosen by the engine
    topk_weights   F32  [n, k]        optional, with topk_ids: their weights

and string metadata: FORMAT_KEY, and optionally RECORDER_KEY and ROUTER_KEY. Rows are tokens in any order. If the
engine's choice of experts is missing, it is computed from the router's weights, as the model does.
"""

import hashlib
from typing import Final

FORMAT: Final = "mtp-capture-1"

INPUT: Final = "ffn_input"
REQUEST: Final = "request"
IDS: Final = "topk_ids"
WEIGHTS: Final = "topk_weights"

FORMAT_KEY: Final = "format"
RECORDER_KEY: Final = "recorder"
"""Names the process that recorded. Two processes count their requests independently."""
ROUTER_KEY: Final = "router"
"""`router_digest` of the model that served. Restored and official checkpoints of one release share the router."""

ROUTER: Final = "mtp.0.ffn.gate.weight"
"""The router of the MTP layer in DeepSeek's names, which no quantiser changes."""


def router_digest(content: bytes) -> str:
    """Of the router's weights as BF16 bytes, which are unlike for any two models."""
    return hashlib.sha256(content).hexdigest()[:16]
