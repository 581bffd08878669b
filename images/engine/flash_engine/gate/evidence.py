"""The evidence about an engine: the input of a verdict, and how each observation changes it. Pure."""

from dataclasses import dataclass, replace
from enum import Enum

from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_record import EngineExit, EngineRecord
from flash_contracts.trial_record import ConcurrentRound, FeatureFault, LongPrompt
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
class Trial:
    """The result of one trial of a healthy engine."""

    golden: GoldenAnswers | None = None
    measurement: Measurement | None = None
    doubt: str | None = None
    """Why the trial cannot be judged: e.g. a stream broke, or a counter is missing."""
    stalled: bool = False
    """A request got no token in its time although the engine was healthy and had no other requests."""
    concurrent_round: ConcurrentRound | None = None
    long_answers: tuple[str, ...] = ()
    """Those to `long_answer`."""
    long_prompts: tuple[LongPrompt, ...] = ()
    broken_features: tuple[FeatureFault, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """Everything that a verdict may depend on."""

    engine: EngineRecord
    healthy: bool
    was_healthy: bool = False
    """This run of the engine has been healthy, now or before."""
    recovered_from: EngineExit | None = None
    """The exit that the record showed when the engine was last healthy. It is not reported again."""
    starting_seconds: float = 0.0
    """Time since the engine's process was started, by a monotonic clock."""
    starting_since: float | None = None
    """When it was started (seconds on the event loop's clock)."""
    unanswered_since: float | None = None
    """When the first of its stalled trials ended (same clock); None once it has produced a token."""
    unanswered_seconds: float = 0.0
    trial: Trial | None = None
    """None until this run of the engine has been tried."""
    earlier_speed: float | None = None
    """Decode speed of this run's last undisturbed trial before `trial`, in tokens per second."""
    download: DownloadRecord | None = None
    """Progress of the model download; None if there is none."""
    checkpoint_bytes: int | None = None
    """How much the engine has to load; None while unknown."""
    full_depth: LongPrompt | None = None
    """What was measured once in this run after a prompt that fills the context."""

    @property
    def measurement(self) -> Measurement | None:
        return self.trial.measurement if self.trial else None

    def with_trial(self, trial: Trial) -> "Evidence":
        """The evidence if this trial counts."""
        figures = self.measurement
        is_sound = figures is not None and not (figures.foreign_tokens or figures.foreign_requests)
        speed = figures.decode_tokens_per_second if figures and is_sound else self.earlier_speed
        return replace(self, trial=trial, earlier_speed=speed)

    @property
    def ended(self) -> EngineExit | None:
        """How the engine exited, unless it has been healthy since."""
        return None if self.healthy or self.engine.exit == self.recovered_from else self.engine.exit

    @property
    def is_downloading(self) -> bool:
        """The engine's container starts only after the download, so there is no engine yet."""
        return self.download is not None and self.download.phase != "Complete" and not self.healthy

    def after_observation(self, engine: EngineRecord, health: EngineHealth, at: float) -> "Evidence":
        """The evidence after the engine was observed, at this time on the event loop's clock.

        run      health   ->  healthy   trial
        same     GOOD         yes       kept
        same     SILENT       as before kept      a busy engine answers late, but is healthy
        same     BAD          no        dropped
        another  GOOD         yes       dropped   a trial belongs to one run
        another  SILENT, BAD  no        dropped
        exited   any          no        dropped   whatever answers is not this engine
        """
        same_run = engine.run == self.engine.run
        silent_as_before = health is EngineHealth.SILENT and same_run and self.healthy
        healthy = engine.phase != "Exited" and (health is EngineHealth.GOOD or silent_as_before)
        is_known = same_run and engine.phase == "Starting" and self.starting_since is not None
        since = self.starting_since if is_known else _starting_since(engine, at)
        trial = self.trial if healthy and same_run else None
        unanswered = self.unanswered_since if trial and trial.stalled else None
        return replace(
            self,
            engine=engine,
            healthy=healthy,
            was_healthy=healthy or (same_run and self.was_healthy),
            recovered_from=engine.exit if healthy else self.recovered_from,
            starting_seconds=0.0 if since is None else at - since,
            starting_since=since,
            unanswered_since=unanswered,
            unanswered_seconds=0.0 if unanswered is None else at - unanswered,
            trial=trial,
            earlier_speed=self.earlier_speed if trial else None,
            full_depth=self.full_depth if healthy and same_run else None,
        )

    def after_trial(self, trial: Trial, at: float) -> "Evidence":
        """The evidence after a trial that counts and ended at this time."""
        since = (self.unanswered_since if self.unanswered_since is not None else at) if trial.stalled else None
        return replace(
            self.with_trial(trial), unanswered_since=since, unanswered_seconds=0.0 if since is None else at - since
        )


def _starting_since(engine: EngineRecord, at: float) -> float | None:
    """When this run was started; when it was first seen if the folder has moved from a machine with another clock.

    A wall clock may be set while an engine loads, so the time in `started_at` only identifies the run.
    """
    if engine.phase != "Starting" or engine.started_at is None:
        return None
    started = engine.started_monotonic
    return started if started is not None and 0 <= started <= at else at
