"""The launcher's settings, from its environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flash_contracts.environment import Environment

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
    def from_environment(cls, variables: Mapping[str, str]) -> "LauncherSettings":
        """Raises SettingError if a setting is missing or invalid."""
        environment = Environment(variables)
        return cls(
            node_dir=environment.path("FLASH_NODE_DIR"),
            run_dir=environment.path("FLASH_RUN_DIR"),
            flags_timeout_seconds=environment.seconds("FLASH_HAND_OVER_SECONDS", 30.0),
            fallback=environment.text("FLASH_FALLBACK_FLAGS", expected="the safe flags as JSON"),
            command=environment.text("FLASH_ENGINE_COMMAND", "vllm"),
            hang_seconds=environment.seconds("FLASH_HANG_SECONDS", 90.0),
            stop_seconds=environment.seconds("FLASH_STOP_SECONDS", 0.0),
            model_check=environment.choice("FLASH_MODEL_CHECK", MODEL_CHECKS),
            model_cache=environment.optional_path("FLASH_MODEL_CACHE"),
            jit_dir=environment.optional_path("FLASH_JIT_DIR"),
            termination_log=environment.optional_path("FLASH_TERMINATION_LOG", "/dev/termination-log"),
        )
