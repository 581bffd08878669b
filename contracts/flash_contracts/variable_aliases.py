"""Environment variables that have several names, with the current name first.

A program reads each of them, so a rule about one name is a rule about all.
"""

import re

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""PyTorch's allocator. The first is the name since 2.9; the others are still read (c10/core/AllocatorConfig.cpp)."""

HUB_TOKEN = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HUGGINGFACEHUB_API_TOKEN")
"""The hub's token, as huggingface_hub and the tools around it read it."""

HUB_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")

EXPANDABLE_SEGMENTS = r"expandable_segments\s*:\s*True"
"""Matches a value of ALLOCATOR. Valid for Python's `re` and for RE2. PyTorch ignores blanks, and knows no other
spelling."""


def has_expandable_segments(value: str) -> bool:
    """Whether this value of ALLOCATOR makes PyTorch map memory that custom all-reduce cannot share."""
    return re.search(EXPANDABLE_SEGMENTS, value) is not None
