"""The gate in time: watch the engine, try it once it is healthy, latch the verdict, try again after a failure.

A verdict is of one run of the engine (its pid and start). Passed stays until that run ends: the gate does not
measure while it serves, for its own requests would queue behind those of users.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from flash_engine.gate.config import BadConfigError, GateConfig
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.evidence import Evidence, Trial
from flash_engine.gate.suspicion import Suspicions
from flash_engine.gate.trial import try_engine
from flash_engine.gate.verdict import Verdict, judge
from flash_engine.records import ENGINE_FILE, SUSPICION_FILE, EngineRecord, now

log = logging.getLogger("flash.gate")

WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class State:
    """What the gate shows: the latest verdict, and on what it rests."""

    verdict: Verdict = Verdict("EngineStarting", "the gate has just started")  # noqa: RUF009 - frozen
    evidence: Evidence = Evidence(EngineRecord(), healthy=False)  # noqa: RUF009 - frozen
    attempts: int = 0
    checked_at: str | None = None
    healthy_at: str | None = None
    gate_millis: float | None = None
    """From the engine's first healthy answer to its first verdict."""


@dataclass(frozen=True)
class _Attempt:
    """The last trial that was made, whether or not the verdict rests on it."""

    under: GateConfig
    at: float


class Gate:
    """Owns the state; `watch` changes it, the server shows it."""

    def __init__(
        self, client: EngineClient, config_file: Path, run_dir: Path, on_change: Callable[[State], None]
    ) -> None:
        self.state = State()
        self._client = client
        self._config_file = config_file
        self._run_dir = run_dir
        self._on_change = on_change
        self._suspicions = Suspicions(run_dir / SUSPICION_FILE)
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
        self._judge(config)
        if self._is_due(config):
            await self._try(config)
            # A request that broke may be an engine that died: then that is the news, and not the request.
            await self._look_at_engine()
            self._judge(self.config or config)
            self._suspicions.weigh(self.state.evidence, self.state.verdict, config)

    def _read_config(self) -> None:
        try:
            self._written = GateConfig.read(self._config_file)
        except BadConfigError as error:
            # The kubelet replaces the file in one step, so this is no half-written one; the last good one stands.
            if self._written is None:
                self._show(replace(self.state, verdict=Verdict("Inconclusive", f"the gate's configuration: {error}")))
            if str(error) != self._config_fault:
                log.warning("bad configuration", extra={"fields": {"error": str(error)}})
            self._config_fault = str(error)
        else:
            self._config_fault = None

    async def _look_at_engine(self) -> None:
        before = self.state.evidence
        health = await self._client.health()
        # The record is read after the answer: an exit that is written down meanwhile must not be missed.
        record = EngineRecord.read(self._run_dir / ENGINE_FILE)
        evidence = before.after_look(record, health, datetime.now(UTC))
        self.state = replace(self.state, evidence=evidence)
        if evidence.trial is None:
            self._trial_under = None
        if not evidence.healthy or evidence.engine.run != before.engine.run:
            self._launched_under, self._attempt = None, None
            self.state = replace(self.state, healthy_at=None, gate_millis=None)
        if evidence.healthy and self.state.healthy_at is None:
            self._healthy_since = time.monotonic()
            self.state = replace(self.state, healthy_at=now())

    def _is_due(self, config: GateConfig) -> bool:
        """Whether to try the engine now.

        never tried                       yes
        asked for other prompts, tokens   yes, once; then like a failure until the verdict rests on it
        judged by new floors              no
        not measured, nothing against it  yes: the golden answer was wrong, until another one was expected
        failed                            after the pause
        passed                            no
        """
        if not self.state.evidence.healthy:
            return False
        if self._attempt is None or not config.measures_like(self._attempt.under):
            return True
        if self.state.verdict.reason == "EngineStarting":
            return True
        rests_on_it = self._trial_under is not None and config.measures_like(self._trial_under)
        paused = time.monotonic() - self._attempt.at >= config.retry_seconds
        return paused and not (self.state.verdict.passed and rests_on_it)

    async def _try(self, config: GateConfig) -> None:
        trial = await try_engine(self._client, config)
        tried_at = time.monotonic()
        self._attempt = _Attempt(config, tried_at)
        self._launched_under = self._launched_under or config
        millis = self.state.gate_millis or round((tried_at - self._healthy_since) * 1000)
        self.state = replace(self.state, attempts=self.state.attempts + 1, checked_at=now(), gate_millis=millis)
        found = replace(self.state.evidence, trial=trial)
        unsure = judge(found, config).reason == "Inconclusive" and not trial.stalled
        kept = self.state.verdict.passed and unsure
        self._tell_trial(trial, kept=kept)
        if not kept:
            # An engine that serves is never quiet: that it cannot be measured speaks against nothing it proved.
            self.state = replace(self.state, evidence=found)
            self._trial_under = config

    def _tell_trial(self, trial: Trial, *, kept: bool) -> None:
        figures = trial.measurement
        fields = {
            "attempt": self.state.attempts,
            "doubt": trial.doubt,
            "decodeTokensPerSecond": round(figures.decode_tokens_per_second, 1) if figures else None,
            "acceptancePercent": figures.acceptance_percent if figures else None,
            "keptEarlierVerdict": kept,
        }
        log.info("tried the engine", extra={"fields": fields})

    def _judge(self, config: GateConfig) -> None:
        """By the floors as they are now; golden answers were given to the question that was asked then."""
        under = self._trial_under
        if under is not None and not config.measures_like(under):
            config = config.model_copy(update={"golden": under.golden})
        self._show(replace(self.state, verdict=judge(self.state.evidence, config)))

    def _show(self, state: State) -> None:
        changed = state.verdict != self.state.verdict
        self.state = state
        self._on_change(state)
        if changed:
            fields = {"reason": state.verdict.reason, "message": state.verdict.message}
            log.info("verdict", extra={"fields": fields})
