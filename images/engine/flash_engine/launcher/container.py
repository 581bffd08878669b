"""Runs an engine container: waits for its flags, runs the engine with them, and recovers it once in a pod's life.

    flags -> engine -> exit:      record it and pass it on
                    -> incident:  record it, kill the engine, and restart it with the safe flags

Broken peer-to-peer shows only while an engine uses it, whatever the driver reports. The safe flags do not use it, so an
engine that hung is restarted once with them. The incident is kept in engine.json, which outlives the container, so that
a later start does not hang again.
"""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flash_contracts.document import now
from flash_contracts.engine_pod import EffectiveFlags, FaultReport
from flash_contracts.engine_record import EndedBy, EngineExit, EngineRecord, Incident
from flash_contracts.flags.flag_set import FlagSet
from flash_contracts.redaction import redact, redact_arguments, secrets_of
from flash_engine.launcher import jit_cache
from flash_engine.launcher.api_key_check import NO_KEY, why_no_key
from flash_engine.launcher.engine_flags import PassedFlags, safe_flags, take_flags
from flash_engine.launcher.gpu_watch import GpuWatch
from flash_engine.launcher.host_evidence import boot_id
from flash_engine.launcher.model_check import REJECTED, check_model
from flash_engine.launcher.model_lock import ModelLock
from flash_engine.launcher.server_arguments import server_arguments
from flash_engine.launcher.settings import LauncherSettings
from flash_engine.launcher.supervisor import COMMAND_NOT_FOUND, Supervisor
from flash_engine.launcher.termination_message import KILLED_WITH_LAUNCHER, message_of, write_message
from flash_engine.launcher.watch import Fault, Watch
from flash_engine.log import Logger

log = Logger("flash.launcher")

SIGNALLED = 128
STUCK = 1


class EngineContainer:
    """One container. `run` returns the exit code that the container ends with."""

    def __init__(self, settings: LauncherSettings, arguments: Sequence[str]) -> None:
        self._settings = settings
        self._arguments = arguments
        self._record = with_lost_exit(EngineRecord.read_or_new(settings.run_dir / EngineRecord.FILE), boot_id())
        self._gpus = GpuWatch()
        self._model_lock = ModelLock(settings.run_dir, settings.model_cache)
        self._jit_environment: dict[str, str] = {}
        """Variables that point the engine's compilers to a cache that outlives the pod."""

    def run(self) -> int:
        """Raises OSError if documents cannot be written, and BadDocumentError if the safe flags are unusable."""
        self._begin_start()
        self._record.write(self._settings.run_dir / EngineRecord.FILE)
        write_message(self._settings.termination_log, KILLED_WITH_LAUNCHER)
        missing = why_no_key(os.environ)
        if missing:
            return self._end_without_key(missing)
        rejection = self._model_lock.acquire() or self._check_model()
        if rejection:
            return self._end_rejected(rejection)
        self._forget_rejection()
        with contextlib.ExitStack() as held:
            held.callback(self._model_lock.release)
            self._jit_environment = self._with_jit_cache(held)
            return self._run_engine()

    def _run_engine(self) -> int:
        passed = self._take_flags()
        supervisor = Supervisor(stop_seconds=self._settings.stop_seconds, record_ending=self._record_ending)
        ended = self._serve(supervisor, passed)
        if isinstance(ended, Incident):
            ended = self._recover(supervisor, ended)
        supervisor.close()
        self._update_record(phase="Exited", pid=None, exit=ended, ending=None)
        write_message(self._settings.termination_log, message_of(ended))
        log.info("engine ended", code=ended.code, signal=ended.signal, ended_by=ended.ended_by)
        return ended.code if ended.code is not None else SIGNALLED + signal.Signals[str(ended.signal)]

    def _begin_start(self) -> None:
        self._record = replace(
            self._record,
            phase="WaitingForFlags",
            pid=None,
            starts=self._record.starts + 1,
            plugin=None,
            ending=None,
            boot=boot_id(),
            computing=None,
        )

    def _record_ending(self, ending: EndedBy) -> None:
        """Record why before the engine is killed: the kubelet may kill the launcher next."""
        self._update_record(ending=ending)

    def _forget_rejection(self) -> None:
        """Remove the previous start's rejection, which stays the latest result until the checkpoint has passed.

        This removes the exit too: it was the launcher's, and would be reported as the engine's during the next load.
        """
        if self._record.rejection:
            self._update_record(rejection=None, exit=None)

    def _with_jit_cache(self, held: contextlib.ExitStack) -> dict[str, str]:
        """Use a slot of the JIT cache. Without one, the engine compiles for minutes, but starts."""
        if self._settings.jit_dir is None:
            return {}
        try:
            folder = held.enter_context(jit_cache.slot(self._settings.jit_dir, jit_cache.key()))
        except OSError as error:
            log.warning("JIT cache not available", error=str(error), remedy="check the volume mounted at FLASH_JIT_DIR")
            return {}
        log.info("using JIT cache", folder=str(folder))
        return jit_cache.environment(folder)

    def _check_model(self) -> str | None:
        """Check the checkpoint while the operator derives the flags, so that it costs no time."""
        check, settings = self._settings.model_check, self._settings
        return None if check == "off" else check_model(self._arguments, settings.run_dir, strict=check == "strict")

    def _end_rejected(self, rejection: str) -> int:
        """Record the rejection and exit. The kubelet restarts the container later, and with it the check."""
        line = f"ModelRejected: {rejection}"
        self._update_record(phase="Exited", rejection=rejection, exit=EngineExit(REJECTED, None, now(), (line,)))
        write_message(self._settings.termination_log, redact(line))
        log.error(
            "checkpoint rejected",
            error=rejection,
            remedy="the engine is not started; flash-checkpoint inspect shows every finding",
        )
        return REJECTED

    def _end_without_key(self, missing: str) -> int:
        """Record the missing key and exit. The kubelet restarts the container, and mounts the Secret once it exists."""
        self._update_record(phase="Exited", exit=EngineExit(NO_KEY, None, now(), (missing,), detail=missing))
        log.error("no API key", error=missing, remedy="the engine is not started until there is one")
        return NO_KEY

    def _take_flags(self) -> PassedFlags:
        incident, settings = self._record.incident, self._settings
        if incident:
            return safe_flags(settings.fallback, incident)
        log.info("waiting for flags", folder=str(settings.node_dir), seconds=settings.flags_timeout_seconds)
        return take_flags(settings.node_dir, settings.fallback, patience=settings.flags_timeout_seconds)

    def _serve(self, supervisor: Supervisor, passed: PassedFlags) -> EngineExit | Incident:
        """Run the engine until it exits or has an incident. Raises OSError if the flags cannot be recorded."""
        passed.effective.write(self._settings.run_dir / EffectiveFlags.FILE)
        _log(passed)
        ours = server_arguments(self._arguments, os.environ, self._settings.stop_seconds)
        command = (self._settings.command, *self._arguments, *ours, *passed.flags.argv)
        environment = {name: value for name, value in os.environ.items() if name not in passed.flags.unset}
        environment.update(self._jit_environment)
        environment.update(passed.flags.variables)
        shown = redact_arguments(command)
        log.info("starting the engine", command=list(shown))
        try:
            pid = supervisor.start(command, environment, secrets_of(command, environment))
        except OSError as error:
            message = f"the engine's command could not be started: {error}"
            remedy = "set engine.image to an engine image of this product, or correct FLASH_ENGINE_COMMAND"
            log.error("engine not started", error=message, remedy=remedy)
            return EngineExit(COMMAND_NOT_FOUND, None, now(), (message,), detail=f"{message}; {remedy}")
        self._update_record(
            phase="Starting", pid=pid, started_at=now(), started_monotonic=time.monotonic(), command=shown
        )
        watch = Watch(
            self._record.run,
            supervisor.progress,
            self._settings.run_dir / FaultReport.FILE,
            self._gpus,
            hang_seconds=self._settings.hang_seconds,
        )
        policy = _FaultPolicy(watch, passed.flags, no_safer_flags=self._has_no_safer_flags(passed.flags))

        def check() -> Incident | None:
            self._model_lock.touch()
            if supervisor.progress.plugin != self._record.plugin:
                self._update_record(plugin=supervisor.progress.plugin)
            incident = policy.incident()
            if watch.computing != self._record.computing:
                self._update_record(computing=watch.computing)
            return incident

        return supervisor.wait(check)

    def _has_no_safer_flags(self, flags: FlagSet) -> bool:
        """Whether a recovery would change nothing, because the current flags have the effect of the safe ones."""
        return self._record.incident is not None or flags.same_effect(FlagSet.parse_text(self._settings.fallback))

    def _recover(self, supervisor: Supervisor, incident: Incident) -> EngineExit:
        """Restart with the safe flags. The incident is recorded first, so that the next start uses them in any case."""
        self._update_record(incident=incident, ending=EndedBy.INCIDENT)
        log.warning("recovering", **incident.to_json())
        killed = supervisor.kill()
        if killed is None:
            message = (
                f"the engine hung ({incident.signature}) and cannot be killed: a process is stuck in the GPU's driver"
            )
            remedy = "its container exits now; if that hangs too, reboot the node"
            log.error("engine not killed", error=message, remedy=remedy)
            return EngineExit(STUCK, None, now(), (message,), detail=f"{message}; {remedy}")
        if supervisor.stop_requested:
            return EngineExit(None, "SIGTERM", now(), ("stopped during the recovery",), ended_by=EndedBy.STOP)
        self._begin_start()
        self._update_record()
        ended = self._serve(supervisor, self._take_flags())
        if isinstance(ended, Incident):
            raise TypeError("a pod recovers once, and there was a second incident")
        return ended

    def _update_record(self, **changes: Any) -> None:
        """Write the changed record. A failure is only logged: a running engine must not lose its supervisor for it."""
        self._record = replace(self._record, **changes)
        try:
            self._record.write(self._settings.run_dir / EngineRecord.FILE)
        except OSError as error:
            log.warning("engine.json not written", error=str(error), remedy="check the volume mounted at FLASH_RUN_DIR")


class _FaultPolicy:
    """Turns a fault into an incident or, if the flags are already safe, into a log line."""

    def __init__(self, watch: Watch, flags: FlagSet, *, no_safer_flags: bool) -> None:
        self._watch = watch
        self._flags = flags
        self._no_safer_flags = no_safer_flags
        self._logged: set[str] = set()

    def incident(self) -> Incident | None:
        fault = self._watch.check()
        if fault is None:
            return None
        if self._no_safer_flags:
            self._log(fault)
            return None
        return Incident(
            fault.kind,
            fault.signature,
            fault.detail,
            now(),
            row=self._flags.row,
            flags=self._flags.spelled,
            evidence=fault.evidence,
            asked=fault.asked,
        )

    def _log(self, fault: Fault) -> None:
        if fault.signature not in self._logged:
            self._logged.add(fault.signature)
            log.warning(
                "fault without a remedy",
                kind=fault.kind,
                signature=fault.signature,
                detail=fault.detail,
                evidence=fault.evidence,
                remedy="the safe flags are already in use, so a restart would not help; see the engine's log",
            )


def with_lost_exit(earlier: EngineRecord, boot: str | None) -> EngineRecord:
    """Add the exit of a run whose launcher was killed with it, and so could not record the exit.

    The kernel kills a whole container at once when it exceeds its memory limit (memory.oom.group, set by the kubelet).
    The kubelet does so when a stop takes too long, which the launcher has recorded. After a restart of the node, the
    boot id differs. `boot` is the current one.
    """
    if earlier.phase != "Starting":
        return earlier
    rebooted = boot is not None and earlier.boot is not None and boot != earlier.boot
    ended_by = EndedBy.REBOOT if rebooted else earlier.ending or EndedBy.CONTAINER
    signal_name = None if rebooted else "SIGKILL"
    return replace(earlier, phase="Exited", ending=None, exit=EngineExit(None, signal_name, now(), ended_by=ended_by))


def _log(passed: PassedFlags) -> None:
    """Log the effective flags with their reasons: the log is where people look first."""
    effective, flags = passed.effective, passed.flags
    log.info("flags received", origin=effective.origin, detail=effective.detail, row=flags.row)
    for argument in flags.args:
        log.info(
            "flag",
            flag=" ".join(redact_arguments(argument.value.split())),
            source=argument.source,
            reason=argument.reason,
        )
    for variable in flags.env:
        log.info(
            "flag", flag=redact(f"{variable.name}={variable.value}"), source=variable.source, reason=variable.reason
        )
