"""The vLLM versions that the plugin supports: those whose loaders are tested (tests/plugin)."""

import re

SUPPORTED = ((0, 26), (0, 32), (0, 33))
"""0.33 is in the CUDA image, 0.32 in the CPU image. 0.26 is the last for torch 2.11, and is supported for machines that
have that (benchmarks/gpu_trial). Versions in between are not tested."""

*_BEFORE, _LAST = (f"{major}.{minor}" for major, minor in SUPPORTED)
RANGE = f"{', '.join(_BEFORE)} and {_LAST}"


class UnsupportedVersionError(RuntimeError):
    """Ends vLLM's start: an untested loader may lose tensors silently."""


def require_supported(version: str) -> None:
    """`version` as vLLM's distribution has it, such as 0.32.0+cpu. Raises UnsupportedVersionError."""
    if release_of(version) not in SUPPORTED:
        raise UnsupportedVersionError(
            f"this plugin supports vLLM {RANGE}, but this is {version}: use an engine image with one of these, "
            "or a newer plugin"
        )


def release_of(version: str) -> tuple[int, int] | None:
    """Major and minor; None if `version` does not begin with them."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else None
