"""What the gate has seen of an engine: the input of a verdict."""

from dataclasses import dataclass

from flash_engine.gate.measurement import Measurement
from flash_engine.records import EngineRecord


@dataclass(frozen=True)
class GoldenAnswers:
    """The answers to the golden question, asked twice."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """What one trial of a healthy engine brought to light."""

    golden: GoldenAnswers | None = None
    measurement: Measurement | None = None
    doubt: str | None = None
    """Why it cannot be judged: a stream that broke, a counter that is missing."""


@dataclass(frozen=True)
class Evidence:
    """All that a verdict may depend on."""

    engine: EngineRecord
    healthy: bool
    starting_seconds: float = 0.0
    """Time since the engine process was started, while it has not been healthy."""
    trial: Trial | None = None
    """None while this run of the engine was not tried yet."""

    @property
    def measurement(self) -> Measurement | None:
        return self.trial.measurement if self.trial else None
