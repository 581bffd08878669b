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
from typing import Any

from flash_engine.gate.config import BadConfigError, GateConfig
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.evidence import Evidence, Trial
from flash_engine.gate.trial import try_engine
from flash_engine.gate.verdict import Verdict, judge
from flash_engine.records import ENGINE_FILE, EngineRecord, now, read_document

log = logging.getLogger("flash.gate")

WATCH_SECONDS = 1.0

Run = tuple[int | None, str | None]


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
        self._config: GateConfig | None = None
        self._run: Run | None = None
        """The run of the engine that the evidence is about."""
        self._tried_under: GateConfig | None = None
        self._tried_at = 0.0
        self._healthy_since = 0.0

    @property
    def config(self) -> GateConfig | None:
        return self._config

    async def watch(self) -> None:
        """Look at the engine for ever, once a second."""
        while True:
            await self.look()
            await asyncio.sleep(WATCH_SECONDS)

    async def look(self) -> None:
        """One look: read the files, ask for health, try the engine where that is due, judge."""
        try:
            self._config = GateConfig.read(self._config_file)
        except BadConfigError as error:
            # The kubelet replaces the file in one step, so this is no half-written one; the last good one stands.
            if self._config is None:
                self._show(replace(self.state, verdict=Verdict("Inconclusive", f"the gate's configuration: {error}")))
                return
        record = EngineRecord.parse(read_document(self._run_dir / ENGINE_FILE) or {})
        healthy = await self._is_healthy(record)
        trial = await self._trial(self._config) if healthy else None
        evidence = Evidence(record, healthy, _seconds_since(record), trial)
        self._show(replace(self.state, evidence=evidence, verdict=judge(evidence, self._config)))

    async def _is_healthy(self, record: EngineRecord) -> bool:
        """Silence is no news: a busy engine that was healthy still is. A new run starts from nothing."""
        answer = await self._client.healthy()
        run = (record.pid, record.started_at)
        was_healthy = self._run is not None
        healthy = was_healthy if answer is None else answer
        if not healthy or (was_healthy and run != self._run):
            self._forget()
        if healthy and self._run is None:
            self._run = run
            self._healthy_since = time.monotonic()
            self._show(replace(self.state, healthy_at=now()))
        return healthy

    def _forget(self) -> None:
        self._run = None
        self._tried_under = None
        self.state = replace(
            self.state, evidence=replace(self.state.evidence, trial=None), healthy_at=None, gate_millis=None
        )

    async def _trial(self, config: GateConfig) -> Trial:
        """The trial to judge by: the one there is, unless it is of no use any more."""
        known = self.state.evidence.trial
        if known is not None and not self._is_due(config):
            return known
        self._tried_under = config
        trial = await try_engine(self._client, config)
        self._tried_at = time.monotonic()
        gate_millis = self.state.gate_millis or round((self._tried_at - self._healthy_since) * 1000)
        self.state = replace(self.state, attempts=self.state.attempts + 1, checked_at=now(), gate_millis=gate_millis)
        return trial

    def _is_due(self, config: GateConfig) -> bool:
        if self._tried_under is None or not config.measures_like(self._tried_under):
            return True
        waited = time.monotonic() - self._tried_at
        return not self.state.verdict.passed and waited >= config.retry_seconds

    def _show(self, state: State) -> None:
        changed = state.verdict != self.state.verdict
        self.state = state
        self._on_change(state)
        if changed:
            log.info(
                "verdict",
                extra={"fields": {"reason": state.verdict.reason, "message": state.verdict.message}},
            )


def _seconds_since(record: EngineRecord) -> float:
    """How long the engine process has been starting."""
    if record.phase != "Starting" or record.started_at is None:
        return 0.0
    return (datetime.now(UTC) - datetime.fromisoformat(record.started_at)).total_seconds()


def result_document(state: State, config: GateConfig | None, effective: dict[str, Any] | None) -> dict[str, Any]:
    """`/result`: the verdict with everything it rests on (docs/architecture.md)."""
    figures = state.evidence.measurement
    return {
        "version": 1,
        "reason": state.verdict.reason,
        "passed": state.verdict.passed,
        "message": state.verdict.message,
        "checkedAt": state.checked_at,
        "attempts": state.attempts,
        "measurement": figures
        and {
            "decodeTokensPerSecond": round(figures.decode_tokens_per_second, 2),
            "acceptancePercent": None if figures.acceptance_percent is None else round(figures.acceptance_percent, 2),
            "firstTokenMillis": round(figures.first_token_millis, 1),
            "tokens": figures.tokens,
            "drafted": figures.drafted,
            "accepted": figures.accepted,
            "durationMillis": round(figures.duration_millis),
        },
        "wanted": config
        and {
            "decodeTokensPerSecond": config.decode.min_tokens_per_second,
            "acceptancePercent": config.min_acceptance_percent if config.speculation.expected else None,
            "firstTokenMillis": config.max_first_token_millis,
        },
        "engineHealthyAt": state.healthy_at,
        "gateMillis": state.gate_millis,
        "effective": effective,
        "engine": state.evidence.engine.to_json(),
    }
