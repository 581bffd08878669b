"""A capture: the inputs of an MTP layer's experts while a model serves, as calibration data for the quantiser.

`flash-capture` writes it, `mtp-quantise` reads it. It is a folder of safetensors files, read in the order of their
names. Each contains

    ffn_input      BF16 [n, hidden]   the input of the mixture of experts: the output of mtp.0.ffn_norm
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
"""Names the recording process. Two processes number their requests independently."""
ROUTER_KEY: Final = "router"
"""`router_digest` of the serving model. Restored and official checkpoints of one release share the router."""

ROUTER: Final = "mtp.0.ffn.gate.weight"
"""The router of the MTP layer in DeepSeek's names, which no quantiser changes."""


def router_digest(content: bytes) -> str:
    """A digest of the router's weights as BF16 bytes, which differ between any two models."""
    return hashlib.sha256(content).hexdigest()[:16]
