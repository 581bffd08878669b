"""What the gate has seen of an engine: the input of a verdict, and how it changes with every look. Pure."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_record import EngineRecord, Exit
from flash_engine.gate.measurement import Measurement


class Health(Enum):
    """What an engine says when it is asked for its health."""

    GOOD = "answers 200"
    BAD = "answers something else, or refuses the connection"
    SILENT = "does not answer in time, or drops the connection"


@dataclass(frozen=True)
class GoldenAnswers:
    """The answers to the golden question, asked twice."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class ConcurrentRound:
    """As many requests at once as the engine is made for: it lived, and what it answered."""

    streams: int
    texts: tuple[str, ...]
    """Golden answers among the other requests."""
    tokens_per_second: float
    """Of all streams together."""


@dataclass(frozen=True)
class Trial:
    """What one trial of a healthy engine brought to light."""

    golden: GoldenAnswers | None = None
    measurement: Measurement | None = None
    doubt: str | None = None
    """Why it cannot be judged: a stream that broke, a counter that is missing."""
    stalled: bool = False
    """A request brought no token in its time, though the engine was healthy and had nothing else."""
    concurrent_round: ConcurrentRound | None = None


@dataclass(frozen=True)
class Degradation:
    """An engine that passed, and fails while it serves."""

    message: str
    since: str
    """Names the wish to be taken out, so that a grant is of this one."""
    measured: bool
    """By requests of the gate; False where traffic alone tells."""


@dataclass(frozen=True)
class Evidence:
    """All that a verdict may depend on."""

    engine: EngineRecord
    healthy: bool
    was_healthy: bool = False
    """This run of the engine has been healthy, now or before."""
    overcome: Exit | None = None
    """The exit that was already past when the engine was last healthy: it is no news any more."""
    starting_seconds: float = 0.0
    """Time since the engine process was started."""
    trial: Trial | None = None
    """None while this run of the engine was not tried yet."""
    delivery: DownloadRecord | None = None
    """How far the model has come; None where it is fetched by nobody."""
    checkpoint_bytes: int | None = None
    """What the engine has to load; None while that is not known."""

    @property
    def measurement(self) -> Measurement | None:
        return self.trial.measurement if self.trial else None

    @property
    def ended(self) -> Exit | None:
        """How the engine ended that has not been healthy since."""
        return None if self.healthy or self.engine.exit == self.overcome else self.engine.exit

    @property
    def is_being_delivered(self) -> bool:
        """The engine's container starts only after the model is there, so there is no engine yet."""
        return self.delivery is not None and self.delivery.phase != "Complete" and not self.healthy

    def after_look(self, engine: EngineRecord, health: Health, at: datetime) -> "Evidence":
        """The evidence with what a look at the engine has shown.

        run      health   ->  healthy   trial
        same     GOOD         yes       kept
        same     SILENT       as before kept      a busy engine answers late, and is healthy all the same
        same     BAD          no        dropped
        another  GOOD         yes       dropped   a trial is of one run
        another  SILENT, BAD  no        dropped
        exited   any          no        dropped   whoever answers there is not this engine
        """
        same_run = engine.run == self.engine.run
        silent_as_before = health is Health.SILENT and same_run and self.healthy
        healthy = engine.phase != "Exited" and (health is Health.GOOD or silent_as_before)
        return replace(
            self,
            engine=engine,
            healthy=healthy,
            was_healthy=healthy or (same_run and self.was_healthy),
            overcome=engine.exit if healthy else self.overcome,
            starting_seconds=_seconds_since(engine, at),
            trial=self.trial if healthy and same_run else None,
        )


def _seconds_since(engine: EngineRecord, at: datetime) -> float:
    if engine.phase != "Starting" or engine.started_at is None:
        return 0.0
    return (at - datetime.fromisoformat(engine.started_at)).total_seconds()
