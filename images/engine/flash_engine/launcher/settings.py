"""The launcher's settings, from its environment."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODEL_CHECKS = ("off", "files", "strict")
"""strict: a complete DeepSeek-V4. files: complete files of any model."""


@dataclass(frozen=True)
class LauncherSettings:
    """See `flash-launch --help`."""

    node_dir: Path
    run_dir: Path
    flags_timeout_seconds: float
    fallback: str
    command: str
    hang_seconds: float
    stop_seconds: float
    model_check: str
    model_cache: Path | None = None
    """A shared cache; its model is locked while the engine runs."""
    jit_dir: Path | None = None
    termination_log: Path | None = None
    """The file that the kubelet shows in the pod's status."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "LauncherSettings":
        """Raises KeyError for a missing setting, and ValueError for an invalid one."""
        return cls(
            node_dir=Path(environment["FLASH_NODE_DIR"]),
            run_dir=Path(environment["FLASH_RUN_DIR"]),
            flags_timeout_seconds=_seconds(environment, "FLASH_HAND_OVER_SECONDS", "30"),
            fallback=environment["FLASH_FALLBACK_FLAGS"],
            command=environment.get("FLASH_ENGINE_COMMAND", "vllm"),
            hang_seconds=_seconds(environment, "FLASH_HANG_SECONDS", "90"),
            stop_seconds=_seconds(environment, "FLASH_STOP_SECONDS", "0"),
            model_check=_choice(environment, "FLASH_MODEL_CHECK", MODEL_CHECKS),
            model_cache=_path(environment, "FLASH_MODEL_CACHE"),
            jit_dir=_path(environment, "FLASH_JIT_DIR"),
            termination_log=_path(
                {"FLASH_TERMINATION_LOG": "/dev/termination-log", **environment}, "FLASH_TERMINATION_LOG"
            ),
        )


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    return Path(environment[name]) if environment.get(name) else None


def _choice(environment: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """The first choice is the default."""
    text = environment.get(name, choices[0])
    if text not in choices:
        raise ValueError(f"{name} is {text!r}; it must be one of {', '.join(choices)}")
    return text


def _seconds(environment: Mapping[str, str], name: str, default: str) -> float:
    text = environment.get(name, default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} is {text!r}; it must be a number of seconds")
    return seconds
