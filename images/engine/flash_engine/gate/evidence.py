"""The evidence about an engine: the input of a verdict, and how each observation changes it. Pure."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_record import EngineExit, EngineRecord
from flash_engine.gate.measurement import Measurement


class EngineHealth(Enum):
    """The engine's answer to /health."""

    GOOD = "answers 200"
    BAD = "answers something else, or refuses the connection"
    SILENT = "does not answer in time, or drops the connection"


@dataclass(frozen=True)
class GoldenAnswers:
    """The answers to the golden question, asked twice."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class ConcurrentRound:
    """The round of as many simultaneous requests as the engine is configured for. The engine survived it."""

    streams: int
    texts: tuple[str, ...]
    """The golden answers given beside the other requests."""
    tokens_per_second: float
    """All streams together."""
    stream_texts: tuple[str, ...] = ()
    """What the other requests decoded."""


@dataclass(frozen=True)
class Trial:
    """The result of one trial of a healthy engine."""

    golden: GoldenAnswers | None = None
    measurement: Measurement | None = None
    doubt: str | None = None
    """Why the trial cannot be judged: e.g. a stream broke, or a counter is missing."""
    stalled: bool = False
    """A request got no token in its time although the engine was healthy and had no other requests."""
    concurrent_round: ConcurrentRound | None = None


@dataclass(frozen=True)
class Degradation:
    """An engine that passed and then failed while serving."""

    message: str
    since: str
    """Start of the degradation. It identifies the quarantine request, so that a grant applies to this one only."""
    measured: bool
    """Measured by the gate's own requests; False if it is inferred from users' traffic."""


@dataclass(frozen=True)
class Evidence:
    """Everything that a verdict may depend on."""

    engine: EngineRecord
    healthy: bool
    was_healthy: bool = False
    """This run of the engine has been healthy, now or before."""
    overcome: EngineExit | None = None
    """The exit that the record showed when the engine was last healthy. It is not reported again."""
    starting_seconds: float = 0.0
    """Time since the engine's process was started."""
    trial: Trial | None = None
    """None until this run of the engine has been tried."""
    download: DownloadRecord | None = None
    """Progress of the model download; None if there is none."""
    checkpoint_bytes: int | None = None
    """How much the engine has to load; None while unknown."""

    @property
    def measurement(self) -> Measurement | None:
        return self.trial.measurement if self.trial else None

    @property
    def ended(self) -> EngineExit | None:
        """How the engine exited, unless it has been healthy since."""
        return None if self.healthy or self.engine.exit == self.overcome else self.engine.exit

    @property
    def is_downloading(self) -> bool:
        """The engine's container starts only after the download, so there is no engine yet."""
        return self.download is not None and self.download.phase != "Complete" and not self.healthy

    def after_observation(self, engine: EngineRecord, health: EngineHealth, at: datetime) -> "Evidence":
        """The evidence after the engine was observed.

        run      health   ->  healthy   trial
        same     GOOD         yes       kept
        same     SILENT       as before kept      a busy engine answers late, and is healthy nevertheless
        same     BAD          no        dropped
        another  GOOD         yes       dropped   a trial is about one run
        another  SILENT, BAD  no        dropped
        exited   any          no        dropped   whatever answers is not this engine
        """
        same_run = engine.run == self.engine.run
        silent_as_before = health is EngineHealth.SILENT and same_run and self.healthy
        healthy = engine.phase != "Exited" and (health is EngineHealth.GOOD or silent_as_before)
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
