"""The gate in time: watch the engine, try it once it is healthy, latch the verdict, try again after a failure.

A verdict is of one run of the engine (its pid and start). Once it has passed, its counters are watched (`serving`), and
it is measured again only where they raise a suspicion and nobody is on it: the gate's requests would queue behind those
of users, and theirs behind the gate's. An engine that then fails is Degraded, and stays ready until the operator grants
it to be taken out. One that hangs serves nobody, so it is not ready at once.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flash_contracts.document import now, read_json
from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_pod import CHECKPOINT_FILE, TRIAL_FILE, DrainRequest, FaultReport
from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_config import BadConfigError, GateConfig
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.evidence import Degradation, Evidence, Trial
from flash_engine.gate.fault_report import FaultReporter
from flash_engine.gate.pod_annotations import granted_quarantine, learned_floor
from flash_engine.gate.serving_health import ServingHealth
from flash_engine.gate.serving_monitor import ServingWatch
from flash_engine.gate.trial import try_engine
from flash_engine.gate.trial_store import TrialStore
from flash_engine.gate.verdict import Verdict, judge
from flash_engine.log import Logger

log = Logger("flash.gate")

WATCH_SECONDS = 1.0

FLOOR_SECONDS = 20.0
"""How long a healthy engine waits for its learned floor; without an operator the fixed one must do."""

SERIOUS = frozenset({Reason.WRONG_OUTPUT, Reason.STARTUP_HANG})
"""What an engine that serves must not go on with: it is worse than no answer."""


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class State:
    """What the gate shows: the latest verdict, and on what it rests."""

    verdict: Verdict = Verdict(Reason.ENGINE_STARTING, "the gate has just started")  # noqa: RUF009 - frozen
    evidence: Evidence = Evidence(EngineRecord(), healthy=False)  # noqa: RUF009 - frozen
    attempts: int = 0
    checked_at: str | None = None
    healthy_at: str | None = None
    gate_millis: float | None = None
    """From the engine's first healthy answer to its first verdict."""
    serving_health: ServingHealth = ServingHealth()  # noqa: RUF009 - frozen
    blind: str | None = None
    """Why an engine that serves is not watched."""
    degraded: Degradation | None = None
    hung: bool = False
    quarantined: bool = False
    draining: bool = False
    restart: bool = False
    """The engine is to be started anew: it hangs, or is degraded, taken out, and `onDegraded` says so."""

    @property
    def ready(self) -> bool:
        """Whether users' requests may come."""
        if self.draining or self.hung:
            return False
        return self.verdict.passed or (self.verdict.reason == Reason.DEGRADED and not self.quarantined)


@dataclass(frozen=True)
class _Attempt:
    """The last trial that was made, whether or not the verdict rests on it."""

    under: GateConfig
    at: float


class Gate:
    """Owns the state; `watch` changes it, the server shows it."""

    def __init__(
        self,
        client: EngineClient,
        config_file: Path,
        run_dir: Path,
        on_change: Callable[[State], None],
        *,
        node_dir: Path | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.state = State()
        self._client = client
        self._node_dir = node_dir
        self._clock = clock
        self._serving = ServingWatch(client)
        self._trial_store = TrialStore(run_dir / TRIAL_FILE)
        self._proved = False
        """The evidence passes, whatever happened to the engine since."""
        self._config_file = config_file
        self._run_dir = run_dir
        self._on_change = on_change
        self._fault_reporter = FaultReporter(run_dir / FaultReport.FILE)
        self._written: GateConfig | None = None
        """The last configuration that could be read."""
        self._config_fault: str | None = None
        self._launched_under: GateConfig | None = None
        """What this run of the engine was first tried under; None before."""
        self._trial_under: GateConfig | None = None
        self._attempt: _Attempt | None = None
        self._healthy_since = 0.0

    @property
    def config(self) -> GateConfig | None:
        """What the engine is held to."""
        if self._written is None or self._launched_under is None:
            return self._written
        return self._written.as_launched(self._launched_under)

    async def watch(self) -> None:
        """Look at the engine for ever, once a second."""
        while True:
            await self.look()
            await asyncio.sleep(WATCH_SECONDS)

    async def look(self) -> None:
        """One look: read the files, ask for health, judge; try the engine where that is due, and judge again."""
        self._read_config()
        await self._look_at_engine()
        config = self.config
        if config is None:
            return
        self._recall(config)
        self._judge(config)
        if self._is_due(config):
            await self._try(config)
            await self._judge_anew(config)
        elif self._proved:
            await self._watch_serving(config)

    def _recall(self, config: GateConfig) -> None:
        """Once, by a gate that has tried nothing yet: the trial that an earlier life of it made of this run."""
        evidence = self.state.evidence
        if not evidence.healthy or evidence.trial or self.state.attempts or self._attempt:
            return
        recalled = self._trial_store.recall(evidence.engine, config)
        if recalled:
            log.info("recalled a trial")
            trial, degraded = recalled
            self._attempt, self._trial_under, self._launched_under = _Attempt(config, self._monotonic()), config, config
            self.state = replace(self.state, evidence=replace(evidence, trial=trial), degraded=degraded)

    def _keep(self) -> None:
        trial, under = self.state.evidence.trial, self._trial_under
        if self._proved and trial and under:
            self._trial_store.keep(trial, self.state.degraded, self.state.evidence.engine, under)

    async def _judge_anew(self, config: GateConfig) -> None:
        """After a trial. A request that broke may be an engine that died: then that is the news, not the request."""
        await self._look_at_engine()
        self._judge(self.config or config)
        self._fault_reporter.weigh(self.state.evidence, self.state.verdict, config)
        self._keep()

    def _read_config(self) -> None:
        try:
            written = GateConfig.read(self._config_file)
            learned = learned_floor(self._node_dir) if written.floor_from == "Learned" else None
            self._written = written.model_copy(update={"learned": learned})
        except BadConfigError as error:
            # The kubelet replaces the file in one step, so this is no half-written one; the last good one stands.
            if self._written is None:
                self._show(
                    replace(self.state, verdict=Verdict(Reason.INCONCLUSIVE, f"the gate's configuration: {error}"))
                )
            if str(error) != self._config_fault:
                log.warning("bad configuration", error=str(error))
            self._config_fault = str(error)
        else:
            self._config_fault = None

    async def _look_at_engine(self) -> None:
        before = self.state.evidence
        health = await self._client.health()
        # The record is read after the answer: an exit that is written down meanwhile must not be missed.
        record = EngineRecord.read_or_new(self._run_dir / EngineRecord.FILE)
        evidence = replace(before.after_look(record, health, self._clock()), **self._look_at_model())
        self.state = replace(self.state, evidence=evidence, draining=DrainRequest.is_made(self._run_dir, record))
        if evidence.trial is None:
            self._trial_under = None
        if not evidence.healthy or evidence.engine.run != before.engine.run:
            self._launched_under, self._attempt = None, None
            self._serving.forget()
            self.state = replace(self.state, healthy_at=None, gate_millis=None, degraded=None)
        if evidence.healthy and self.state.healthy_at is None:
            self._healthy_since = self._monotonic()
            self.state = replace(self.state, healthy_at=now())

    def _look_at_model(self) -> dict[str, Any]:
        """What was fetched, and what is to be loaded."""
        checkpoint = read_json(self._run_dir / CHECKPOINT_FILE) or {}
        delivery = DownloadRecord.read(self._run_dir / DownloadRecord.FILE)
        stored = checkpoint.get("storedBytes") or (delivery.total_bytes if delivery else None)
        return {"delivery": delivery, "checkpoint_bytes": stored if isinstance(stored, int) else None}

    @staticmethod
    def _monotonic() -> float:
        """The event loop's clock, which pauses and timeouts go by."""
        return asyncio.get_running_loop().time()

    def _is_due(self, config: GateConfig) -> bool:
        """Whether to try the engine now.

        never tried                       yes
        asked for other prompts, tokens   yes, once; then like a failure until the verdict rests on it
        judged by new floors              no
        not measured, nothing against it  yes: the golden answer was wrong, until another one was expected
        failed                            after the pause
        passed                            no
        """
        if not self.state.evidence.healthy or self.state.draining or self._waits_for_floor(config):
            return False
        if self._attempt is None or not config.measures_like(self._attempt.under):
            return True
        if self.state.verdict.reason == Reason.ENGINE_STARTING:
            return True
        rests_on_it = self._trial_under is not None and config.measures_like(self._trial_under)
        return self._paused(config) and not (self._proved and rests_on_it)

    def _paused(self, config: GateConfig) -> bool:
        return self._attempt is None or self._monotonic() - self._attempt.at >= config.retry_seconds

    def _waits_for_floor(self, config: GateConfig) -> bool:
        waited = self._monotonic() - self._healthy_since
        return config.floor_from == "Learned" and config.learned is None and waited < FLOOR_SECONDS

    async def _watch_serving(self, config: GateConfig) -> None:
        """See `serving_health`. A suspicion is measured once the engine is idle, a degradation every retry pause."""
        await self._serving.look(config)
        serving_health, degraded = self._serving.serving_health, self.state.degraded
        doubted = serving_health.suspected(config) or self.state.degraded is not None
        if serving_health.idle and doubted and self._paused(config) and not self.state.draining:
            await self._measure_again(config)
        elif serving_health.believed(config) and self.state.degraded is None:
            self._degrade(serving_health.told, measured=False)
        elif serving_health.recovered(config) and self.state.degraded and not self.state.degraded.measured:
            self.state = replace(self.state, degraded=None)
        self._judge(config)
        if self.state.degraded != degraded:
            self._keep()
        if self.state.hung:
            self._fault_reporter.hung(self.state.evidence, self.state.verdict.message)

    async def _measure_again(self, config: GateConfig) -> None:
        """An engine that served and that nobody is on. What is not clear changes nothing."""
        trial = await try_engine(self._client, config)
        self._attempt = _Attempt(config, self._monotonic())
        found = replace(self.state.evidence, trial=trial)
        verdict = judge(found, config)
        self.state = replace(self.state, attempts=self.state.attempts + 1, checked_at=now())
        self._tell_trial(trial, kept=not verdict.passed)
        if verdict.passed or verdict.reason in SERIOUS:
            self._serving.forget()
            self.state = replace(self.state, evidence=found, degraded=None)
            self._trial_under = config
            await self._judge_anew(config)
        elif verdict.reason != Reason.INCONCLUSIVE:
            self._degrade(f"{verdict.reason}: {verdict.message}", measured=True)

    def _degrade(self, message: str, *, measured: bool) -> None:
        since = self.state.degraded.since if self.state.degraded else now()
        self.state = replace(self.state, degraded=Degradation(message, since, measured))

    async def _try(self, config: GateConfig) -> None:
        trial = await try_engine(self._client, config)
        tried_at = self._monotonic()
        self._attempt = _Attempt(config, tried_at)
        self._launched_under = self._launched_under or config
        millis = self.state.gate_millis or round((tried_at - self._healthy_since) * 1000)
        self.state = replace(self.state, attempts=self.state.attempts + 1, checked_at=now(), gate_millis=millis)
        found = replace(self.state.evidence, trial=trial)
        unsure = judge(found, config).reason == Reason.INCONCLUSIVE
        kept = unsure and (self._proved or self._hung_before())
        self._tell_trial(trial, kept=kept)
        if not kept:
            # An engine that serves is never quiet: that it cannot be measured speaks against nothing it proved.
            self.state = replace(self.state, evidence=found)
            self._trial_under = config

    def _hung_before(self) -> bool:
        """A hang is over when the engine gives a token, and not when it cannot be asked."""
        before = self.state.evidence.trial
        return before is not None and before.stalled

    def _tell_trial(self, trial: Trial, *, kept: bool) -> None:
        figures = trial.measurement
        fields = {
            "attempt": self.state.attempts,
            "doubt": trial.doubt,
            "decodeTokensPerSecond": round(figures.decode_tokens_per_second, 1) if figures else None,
            "acceptancePercent": figures.acceptance_percent if figures else None,
            "keptEarlierVerdict": kept,
        }
        log.info("tried the engine", **fields)

    def _judge(self, config: GateConfig) -> None:
        """By the floors as they are now; golden answers were given to the question that was asked then."""
        under = self._trial_under
        if under is not None and not config.measures_like(under):
            config = config.model_copy(update={"golden": under.golden})
        verdict = judge(self.state.evidence, config)
        self._proved = verdict.passed
        serving_health, degraded = self._serving.serving_health, self.state.degraded
        hung = self._proved and serving_health.hangs(config)
        quarantined = degraded is not None and granted_quarantine(self._node_dir) == degraded.since
        quarantined = quarantined and config.serving.on_degraded != "Report"
        if hung:
            verdict = Verdict(Reason.DEGRADED, serving_health.hang_told)
        elif self._proved and degraded:
            verdict = Verdict(Reason.DEGRADED, degraded.message)
        restart = hung or (
            quarantined and config.serving.on_degraded == "Restart" and bool(degraded and degraded.measured)
        )
        self._show(
            replace(
                self.state,
                verdict=verdict,
                serving_health=serving_health,
                blind=self._serving.blind,
                hung=hung,
                quarantined=quarantined,
                restart=restart,
            )
        )

    def _show(self, state: State) -> None:
        changed = state.verdict != self.state.verdict
        self.state = state
        self._on_change(state)
        if changed:
            fields = {"reason": state.verdict.reason, "message": state.verdict.message}
            log.info("verdict", **fields)
