"""The life of an engine container: its flags, the engine with them, and once in a pod's life a recovery.

    flags -> engine -> it ends:      its exit is written down and passed on
                    -> an incident:  it is written down, the engine is killed, and started again with the safe set

Peer-to-peer that hangs or corrupts shows only while an engine uses it, whatever the driver says of it. The safe set
does without, so an engine that hung gets one more start with it. The incident is in engine.json, which outlives the
container: a later start does not walk into the same hang again.
"""

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flash_contracts.document import now
from flash_contracts.engine_pod import EffectiveFlags, FaultReport
from flash_contracts.engine_record import EngineRecord, Exit, Incident
from flash_contracts.flags.flag_set import FlagSet
from flash_engine.drain import connections
from flash_engine.launcher import jit_cache
from flash_engine.launcher.engine_flags import HandOver, safe_flags, take_flags
from flash_engine.launcher.gpu_watch import GpuWatch
from flash_engine.launcher.model_check import REJECTED, check_model
from flash_engine.launcher.model_lock import ModelHold
from flash_engine.launcher.settings import Settings
from flash_engine.launcher.supervisor import COMMAND_NOT_FOUND, Supervisor
from flash_engine.launcher.watch import Fault, Watch
from flash_engine.log import Logger

log = Logger("flash.launcher")

SIGNALLED = 128
STUCK = 1


class Lifetime:
    """One container. `run` returns the exit code that the container ends with."""

    def __init__(self, settings: Settings, arguments: Sequence[str]) -> None:
        self._settings = settings
        self._arguments = arguments
        self._record = with_lost_exit(EngineRecord.read_or_new(settings.run_dir / EngineRecord.FILE))
        self._gpus = GpuWatch()
        self._hold = ModelHold(settings.run_dir, settings.model_cache)
        self._compiled: dict[str, str] = {}
        """Variables that lead the engine's compilers to a place that outlasts the pod."""

    def run(self) -> int:
        """Raises OSError where nothing can be written, and BadDocumentError for an unusable safe set."""
        self._begin_start()
        self._record.write(self._settings.run_dir / EngineRecord.FILE)
        rejection = self._hold.take() or self._check_model()
        if rejection:
            return self._reject(rejection)
        self._forget_rejection()
        with contextlib.ExitStack() as held:
            held.callback(self._hold.leave)
            self._compiled = self._keep_compiled(held)
            return self._run_engine()

    def _run_engine(self) -> int:
        taken = self._take_flags()
        supervisor = Supervisor(stop_seconds=self._settings.stop_seconds)
        ended = self._serve(supervisor, taken)
        if isinstance(ended, Incident):
            ended = self._recover(supervisor, ended)
        supervisor.close()
        self._note(phase="Exited", pid=None, exit=ended)
        log.info("engine ended", code=ended.code, signal=ended.signal)
        return ended.code if ended.code is not None else SIGNALLED + signal.Signals[str(ended.signal)]

    def _begin_start(self) -> None:
        self._record = replace(
            self._record, phase="WaitingForFlags", pid=None, starts=self._record.starts + 1, plugin=None
        )

    def _forget_rejection(self) -> None:
        """Only now: while a start looked again, the last word on the checkpoint was what the one before had found.

        The exit goes with it. It is the launcher's, and would be told of as an engine's while the next one loads.
        """
        if self._record.rejection:
            self._note(rejection=None, exit=None)

    def _keep_compiled(self, held: contextlib.ExitStack) -> dict[str, str]:
        """A place that cannot be had costs minutes of compiling, and no engine."""
        if self._settings.jit_dir is None:
            return {}
        try:
            folder = held.enter_context(jit_cache.slot(self._settings.jit_dir, jit_cache.key()))
        except OSError as error:
            log.warning("compiled code is not kept", error=str(error), remedy="look at the volume behind FLASH_JIT_DIR")
            return {}
        log.info("compiled code is kept", folder=str(folder))
        return jit_cache.environment(folder)

    def _check_model(self) -> str | None:
        """While the operator writes the flags: what this takes is no time that is lost."""
        check, settings = self._settings.model_check, self._settings
        return None if check == "off" else check_model(self._arguments, settings.run_dir, strict=check == "strict")

    def _reject(self, rejection: str) -> int:
        """The kubelet starts the container again later, and whoever mends the checkpoint need not restart anything."""
        said = f"ModelRejected: {rejection}"
        self._note(phase="Exited", rejection=rejection, exit=Exit(REJECTED, None, now(), (said,)))
        log.info(
            "checkpoint rejected",
            error=rejection,
            remedy="the engine is not started; flash-checkpoint inspect shows all",
        )
        return REJECTED

    def _take_flags(self) -> HandOver:
        incident, settings = self._record.incident, self._settings
        if incident:
            return safe_flags(settings.fallback, incident)
        log.info("waiting for flags", folder=str(settings.node_dir), seconds=settings.hand_over_seconds)
        return take_flags(settings.node_dir, settings.fallback, patience=settings.hand_over_seconds)

    def _serve(self, supervisor: Supervisor, taken: HandOver) -> Exit | Incident:
        """Run the engine until it ends or has an incident. Raises OSError where the flags cannot be written down."""
        taken.effective.write(self._settings.run_dir / EffectiveFlags.FILE)
        _tell(taken)
        command = (self._settings.command, *self._arguments, *_of_the_server(self._arguments), *taken.flags.words)
        environment = {name: value for name, value in os.environ.items() if name not in taken.flags.unset}
        environment.update(self._compiled)
        environment.update(taken.flags.variables)
        log.info("starting the engine", command=list(command))
        try:
            pid = supervisor.start(command, environment)
        except OSError as error:
            message = f"the engine's command could not be started: {error}"
            log.error("engine not started", error=message, remedy="check the image, or FLASH_ENGINE_COMMAND")
            return Exit(COMMAND_NOT_FOUND, None, now(), (message,))
        self._note(phase="Starting", pid=pid, started_at=now(), command=command)
        watch = Watch(
            self._record.run,
            supervisor.progress,
            self._settings.run_dir / FaultReport.FILE,
            self._gpus,
            hang_seconds=self._settings.hang_seconds,
        )
        judgement = _Judgement(watch, taken.flags, last_resort=self._is_last_resort(taken.flags))

        def look() -> Incident | None:
            self._hold.keep()
            if supervisor.progress.plugin != self._record.plugin:
                self._note(plugin=supervisor.progress.plugin)
            return judgement.incident()

        return supervisor.wait(look)

    def _is_last_resort(self, flags: FlagSet) -> bool:
        """There is nothing safer to start with: the user may have forced what is in force."""
        return self._record.incident is not None or flags.same_effect(FlagSet.parse_text(self._settings.fallback))

    def _recover(self, supervisor: Supervisor, incident: Incident) -> Exit:
        """Written down before anything is done, so that whatever comes between, the next start takes the safe set."""
        self._note(incident=incident)
        log.warning("recovering", **incident.to_json())
        killed = supervisor.kill()
        if killed is None:
            told = (
                f"the engine hung ({incident.signature}) and cannot be killed: a process is stuck in the GPU's driver"
            )
            log.error(
                "engine not killed", error=told, remedy="its container ends now; if that hangs too, reboot the node"
            )
            return Exit(STUCK, None, now(), (told,))
        if supervisor.asked_to_end:
            return Exit(None, "SIGTERM", now(), ("asked to end during the recovery",))
        self._begin_start()
        self._note()
        ended = self._serve(supervisor, self._take_flags())
        if isinstance(ended, Incident):
            raise TypeError("one incident a pod, and there was another")
        return ended

    def _note(self, **changes: Any) -> None:
        """A record that cannot be written is no reason to leave an engine that runs without its first process."""
        self._record = replace(self._record, **changes)
        try:
            self._record.write(self._settings.run_dir / EngineRecord.FILE)
        except OSError as error:
            log.warning("engine.json not written", error=str(error), remedy="look at the volume behind FLASH_RUN_DIR")


class _Judgement:
    """What a fault of one run leads to: an incident, or, where its flags are safe already, a line in the log."""

    def __init__(self, watch: Watch, flags: FlagSet, *, last_resort: bool) -> None:
        self._watch = watch
        self._flags = flags
        self._last_resort = last_resort
        self._told: set[str] = set()

    def incident(self) -> Incident | None:
        fault = self._watch.look()
        if fault is None:
            return None
        if self._last_resort:
            self._tell(fault)
            return None
        return Incident(
            fault.kind,
            fault.signature,
            fault.detail,
            now(),
            row=self._flags.row,
            flags=self._flags.spelled,
            evidence=fault.evidence,
        )

    def _tell(self, fault: Fault) -> None:
        if fault.signature not in self._told:
            self._told.add(fault.signature)
            log.info(
                "fault without a remedy",
                kind=fault.kind,
                signature=fault.signature,
                detail=fault.detail,
                evidence=fault.evidence,
                remedy="the fallback's flags are in force already, another start mends nothing; see its log",
            )


def with_lost_exit(earlier: EngineRecord) -> EngineRecord:
    """The last record of a run whose launcher was killed with it, and so could not write down the exit.

    The kernel ends a whole container at once when its memory is up (memory.oom.group, set by the kubelet).
    """
    if earlier.phase != "Starting":
        return earlier
    told = "the whole container was killed at once: out of memory, or its node went down"
    return replace(earlier, phase="Exited", exit=Exit(None, "SIGKILL", now(), (told,)))


def _of_the_server(arguments: Sequence[str]) -> tuple[str, ...]:
    """What goes with this image and not with the operator's version."""
    return (connections.ARGUMENT,) if arguments[:1] == ["serve"] else ()


def _tell(taken: HandOver) -> None:
    """The flags in force belong in the log, with their reasons: it is the first place people look."""
    effective, flags = taken.effective, taken.flags
    log.info("flags taken", origin=effective.origin, detail=effective.detail, row=flags.row)
    for argument in flags.args:
        log.info("flag", flag=argument.value, source=argument.source, reason=argument.reason)
    for variable in flags.env:
        log.info("flag", flag=f"{variable.name}={variable.value}", source=variable.source, reason=variable.reason)
