"""What the pod template says to the launcher."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODEL_CHECKS = ("off", "files", "strict")
"""strict: a DeepSeek-V4, whole. files: of any model, files that are whole."""


@dataclass(frozen=True)
class Settings:
    """As `flash-launch --help` has them."""

    node_dir: Path
    run_dir: Path
    hand_over_seconds: float
    fallback: str
    command: str
    hang_seconds: float
    stop_seconds: float
    model_check: str
    model_cache: Path | None = None
    """A cache that others use too; its model is held while the engine runs."""
    jit_dir: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Raises KeyError for a missing setting and ValueError for one that is no number of seconds."""
        return cls(
            node_dir=Path(environment["FLASH_NODE_DIR"]),
            run_dir=Path(environment["FLASH_RUN_DIR"]),
            hand_over_seconds=_seconds(environment, "FLASH_HAND_OVER_SECONDS", "30"),
            fallback=environment["FLASH_FALLBACK_FLAGS"],
            command=environment.get("FLASH_ENGINE_COMMAND", "vllm"),
            hang_seconds=_seconds(environment, "FLASH_HANG_SECONDS", "90"),
            stop_seconds=_seconds(environment, "FLASH_STOP_SECONDS", "0"),
            model_check=_choice(environment, "FLASH_MODEL_CHECK", MODEL_CHECKS),
            model_cache=_path(environment, "FLASH_MODEL_CACHE"),
            jit_dir=_path(environment, "FLASH_JIT_DIR"),
        )


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    return Path(environment[name]) if environment.get(name) else None


def _choice(environment: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """The first choice where nothing is set."""
    text = environment.get(name, choices[0])
    if text not in choices:
        raise ValueError(f"{name} is {text!r}, and must be one of {', '.join(choices)}")
    return text


def _seconds(environment: Mapping[str, str], name: str, default: str) -> float:
    text = environment.get(name, default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} is {text!r}, and must be a number of seconds")
    return seconds
