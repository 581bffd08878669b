"""The gate's I/O: reads the files, asks the engine, runs trials, and carries out what the state machine decides.

A verdict is about one run of the engine (its pid and start time). After the engine has passed, the gate monitors its
counters and measures it again only if they look bad and the engine is idle: the gate's requests would queue behind
users' requests, and delay them. If the engine then fails, the verdict is Degraded, and the pod stays ready until the
operator grants its quarantine. An engine that hangs serves nobody, so its pod is not ready from then on.

`state_machine` has all the decisions.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flash_contracts.checkpoint_record import CheckpointRecord
from flash_contracts.document import timestamp
from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_pod import DrainRequest, FaultReport, MeasureOrder
from flash_contracts.engine_record import EngineRecord, Run
from flash_contracts.gate_config import BadConfigError, GateConfig
from flash_contracts.trial_record import LongPrompt, TrialRecord
from flash_engine.engine_metrics import MissingMetricsError
from flash_engine.gate.actions import (
    Action,
    AskEngine,
    LogTrial,
    MeasureFullDepth,
    MeasureOrdered,
    ReadCounters,
    ReadStoredTrial,
    ReportFault,
    RunTrial,
    StoreTrial,
    WithdrawFault,
)
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.engine_errors import EngineRequestError
from flash_engine.gate.fault_report import FaultReportFile
from flash_engine.gate.full_depth import measure_full_depth
from flash_engine.gate.gate_state import GateState, Instant
from flash_engine.gate.observations import (
    ConfigRead,
    ConfigRejected,
    EngineAsked,
    EngineObserved,
    FaultReported,
    FaultReportWithdrawn,
    FullDepthMeasured,
    Observation,
    OrderAnswered,
    StoredTrialRead,
    TrialFinished,
)
from flash_engine.gate.ordered_measuring import SAMPLES, Answer
from flash_engine.gate.pod_annotations import granted_quarantine, pod_floor
from flash_engine.gate.serving_health import Reply
from flash_engine.gate.serving_monitor import ask_for_token, observe_counters
from flash_engine.gate.state_machine import step
from flash_engine.gate.trial import measure_for_user, try_engine
from flash_engine.gate.trial_store import TrialStore
from flash_engine.log import Logger

log = Logger("flash.gate")

OBSERVE_SECONDS = 1.0
LONGEST_ID = 64
"""Of an order: the answer repeats it."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class Gate:
    """One gate beside one engine. `watch` changes its state; the server shows it."""

    def __init__(
        self,
        client: EngineClient,
        config_file: Path,
        run_dir: Path,
        on_change: Callable[[GateState], None],
        *,
        node_dir: Path | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.state = GateState()
        self._client = client
        self._config_file = config_file
        self._run_dir = run_dir
        self._node_dir = node_dir
        self._on_change = on_change
        self._clock = clock
        self._trial_store = TrialStore(run_dir / TrialRecord.FILE)
        self._asking: tuple[Run, asyncio.Task[Reply]] | None = None
        """The run of the engine that is being asked for a token, and the request."""
        self._measuring: tuple[Run, asyncio.Task[LongPrompt | None]] | None = None
        """The run of the engine that is measured at full depth, and the measurement."""
        self._fault_report_file = FaultReportFile(run_dir / FaultReport.FILE)

    @property
    def config(self) -> GateConfig | None:
        """The configuration that the engine is judged by."""
        return self.state.config

    async def watch(self) -> None:
        """Observe the engine once a second, forever."""
        while True:
            await self.observe()
            await asyncio.sleep(OBSERVE_SECONDS)

    async def observe(self) -> None:
        """Read the configuration, observe the engine, and do what follows from it."""
        await self._process(self._observe_config())
        await self._process(await self._observe_engine())
        if self._asking and self._asking[1].done():
            (run, asked), self._asking = self._asking, None
            await self._process(EngineAsked(asked.result(), run))
        await self._collect_full_depth()

    async def _collect_full_depth(self) -> None:
        """Process a finished measurement, or cancel one that the state machine has abandoned."""
        if self._measuring is None:
            return
        run, measuring = self._measuring
        if not self.state.depth.is_running or run != self.state.evidence.engine.run:
            self._measuring = None
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)
        elif measuring.done():
            self._measuring = None
            await self._process(FullDepthMeasured(measuring.result(), run))

    async def _process(self, observation: Observation) -> None:
        """Change the state by an observation, show it, and carry out the actions."""
        previous = self.state.verdict
        self.state, actions = step(self.state, observation, self._instant())
        self._on_change(self.state)
        verdict = self.state.verdict
        if verdict != previous:
            fields = {"reason": verdict.reason, "message": verdict.message}
            log.info("verdict", **fields)
        for action in actions:
            await self._carry_out(action)

    async def _carry_out(self, action: Action) -> None:
        match action:
            case ReadStoredTrial(config):
                await self._process(self._read_stored_trial(config))
            case RunTrial() | MeasureOrdered() | ReadCounters():
                await self._process(await self._ask(action))
            case AskEngine() | MeasureFullDepth():
                self._begin(action)
            case ReportFault(report):
                if self._fault_report_file.write(report):
                    await self._process(FaultReported())
            case WithdrawFault():
                if self._fault_report_file.withdraw():
                    await self._process(FaultReportWithdrawn())
            case StoreTrial() | LogTrial():
                self._record(action)

    async def _ask(self, action: RunTrial | MeasureOrdered | ReadCounters) -> Observation:
        """Ask the engine, and wait for its answers."""
        match action:
            case RunTrial():
                return await self._run_trial(action)
            case MeasureOrdered():
                return await self._measure_for_user(action)
            case ReadCounters():
                return await observe_counters(self._client)

    async def _measure_for_user(self, action: MeasureOrdered) -> OrderAnswered:
        try:
            answer = Answer(action.order, figures=await measure_for_user(self._client, action.config, SAMPLES))
        except (EngineRequestError, MissingMetricsError) as error:
            answer = Answer(action.order, problem=str(error))
        log.info("measured for a user", order=action.order, problem=answer.problem or None)
        return OrderAnswered(answer, self._instant().monotonic)

    def _begin(self, action: AskEngine | MeasureFullDepth) -> None:
        """Start a background task: the gate must not block on an engine that hangs or reads a long prompt."""
        run = self.state.evidence.engine.run
        match action:
            case AskEngine(config):
                self._asking = (run, asyncio.create_task(ask_for_token(self._client, config)))
            case MeasureFullDepth(config, test):
                self._measuring = (run, asyncio.create_task(measure_full_depth(self._client, config, test)))

    def _record(self, action: StoreTrial | LogTrial) -> None:
        """Carry out an action that does not change the gate's state."""
        match action:
            case StoreTrial(stored, engine, config):
                self._trial_store.store(stored, engine, config)
            case LogTrial():
                _log_trial(action)

    def _observe_config(self) -> ConfigRead | ConfigRejected:
        try:
            config = GateConfig.read(self._config_file)
        except BadConfigError as error:
            if str(error) != self.state.config_error:
                log.warning("bad configuration", error=str(error))
            return ConfigRejected(str(error))
        floor = pod_floor(self._node_dir)
        of_this_pod = {
            "learned": floor if config.floor_from == "Learned" else None,
            "measure_again_below": floor.measure_again_below if floor else None,
        }
        return ConfigRead(config.model_copy(update=of_this_pod))

    async def _observe_engine(self) -> EngineObserved:
        health = await self._client.health()
        record = EngineRecord.read_or_new(self._run_dir / EngineRecord.FILE)
        download = DownloadRecord.read(self._run_dir / DownloadRecord.FILE)
        checkpoint = CheckpointRecord.read(self._run_dir / CheckpointRecord.FILE)
        stored_bytes = checkpoint.stored_bytes if checkpoint else 0
        return EngineObserved(
            health,
            record,
            asyncio.get_running_loop().time(),
            download=download,
            checkpoint_bytes=stored_bytes or (download.total_bytes if download else None),
            draining=DrainRequest.is_made(self._run_dir, record),
            granted_quarantine=granted_quarantine(self._node_dir),
            measure_order=self._take_order(),
        )

    def _take_order(self) -> str | None:
        """Removed before it is carried out: a gate that restarts meanwhile must not measure again and again."""
        file = self._run_dir / MeasureOrder.FILE
        if not file.exists():
            return None
        order = MeasureOrder.read(file)
        try:
            file.unlink()
        except OSError as error:
            log.warning("an order to measure cannot be taken", error=str(error))
            return None
        return order.id[:LONGEST_ID] if order else None

    def _read_stored_trial(self, config: GateConfig) -> StoredTrialRead:
        stored = self._trial_store.restore(self.state.evidence.engine, config)
        if stored is not None:
            log.info("trial restored from disk")
        return StoredTrialRead(config, stored)

    async def _run_trial(self, action: RunTrial) -> TrialFinished:
        trial = await try_engine(self._client, action.config)
        finished_at = self._instant()
        return TrialFinished(trial, action.kind, action.config, finished_at, await self._observe_engine())

    def _instant(self) -> Instant:
        """Durations are measured by the event loop's clock: the wall clock may be set at any time."""
        return Instant(asyncio.get_running_loop().time(), timestamp(self._clock()))


def _log_trial(action: LogTrial) -> None:
    figures = action.trial.measurement
    fields = {
        "attempt": action.attempt,
        "doubt": action.trial.doubt,
        "decodeTokensPerSecond": round(figures.decode_tokens_per_second, 1) if figures else None,
        "acceptancePercent": figures.acceptance_percent if figures else None,
        "keptEarlierVerdict": action.keeps_earlier_verdict,
    }
    log.info("trial finished", **fields)
