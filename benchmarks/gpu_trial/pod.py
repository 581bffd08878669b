"""One engine pod without a cluster: launcher and gate as the operator's pod template has them, in folders here."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from builders import SETTINGS
from direct_http import WITHOUT_PROXY
from flash_contracts import gate_config
from flash_contracts.document import read_json
from flash_contracts.engine_record import EngineRecord
from flash_contracts.flags import FlagSet
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.resources.deployment import CACHE_DIR, GATE_DIR, GATE_PORT, NODE_DIR, pod_template
from flash_operator.core.resources.engine_args import PORT
from flash_operator.core.resources.gate_config import gate_settings
from flash_operator.core.resources.model_source import MODEL_PATH, RUN_DIR
from gpu_trial.engine import ENGINE, Engine
from gpu_trial.process_log import ProcessLog
from ports import a_free_port

NOT_YET = ("EngineStarting", "Inconclusive")
EXIT_SECONDS = 20
"""How long the gate may take to report the reason after the launcher has exited."""

STOP_SECONDS = 45
PROGRAMS = {"flash-launch": "flash_engine.launcher", "flash-gate": "flash_engine.gate"}


class Pod:
    """Its two containers are processes, each in a session of its own. All of them are ended with it."""

    def __init__(
        self, folder: Path, flash: FlashDeployment, flags: FlagSet, model: Path, engine: Engine, more: Mapping[str, str]
    ) -> None:
        """`more` are variables that win over the template's."""
        self.folder = folder
        ports = {PORT: a_free_port(), GATE_PORT: a_free_port()}
        self._gate = f"http://127.0.0.1:{ports[GATE_PORT]}"
        self.engine_address = f"http://127.0.0.1:{ports[PORT]}"
        self._here = {
            RUN_DIR: self._made("run"), NODE_DIR: self._made("node"), GATE_DIR: self._made("gate"),
            CACHE_DIR: self._made("cache"), MODEL_PATH: str(model), f"--port={PORT}": f"--port={ports[PORT]}",
            f":{PORT}": f":{ports[PORT]}",
        }  # fmt: skip
        self._engine = engine
        spec = pod_template(flash, SETTINGS)["spec"]
        own = {"FLASH_ENGINE_COMMAND": str(engine.command(folder)), "FLASH_GATE_PORT": str(ports[GATE_PORT]), **more}
        (folder / "node/engine-flags").write_text(flags.to_text())
        (folder / "gate" / gate_config.FILE).write_text(json.dumps(gate_settings(flash.spec).to_json()))
        (gate,), (launcher,) = spec["initContainers"], spec["containers"]
        self._processes = {name: self._start(one, own) for name, one in (("gate", gate), ("engine", launcher))}
        self.logs = {name: ProcessLog(one, folder / f"{name}.log") for name, one in self._processes.items()}

    def _made(self, name: str) -> str:
        (self.folder / name).mkdir(parents=True)
        return str(self.folder / name)

    def _start(self, container: Mapping[str, Any], own: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        said = {variable["name"]: self._local(variable["value"]) for variable in container["env"]}
        # The cache variables of the engine's environment win, because all starts share these caches.
        said.pop("XDG_CACHE_HOME", None)
        environment = {**self._engine.environment, **said, **own, "HOME": str(self.folder)}
        environment["PYTHONPATH"] = os.pathsep.join([str(ENGINE), environment.get("PYTHONPATH", "")])
        arguments = [self._local(argument) for argument in container.get("args", [])]
        return subprocess.Popen(
            [sys.executable, "-m", PROGRAMS[container["command"][0]], *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def _local(self, text: str) -> str:
        for there, here in self._here.items():
            if text.startswith(there) or there.startswith(":"):
                text = text.replace(there, here)
        return text

    def result(self) -> dict[str, Any]:
        """The gate's result; empty while it has none."""
        try:
            with WITHOUT_PROXY.open(f"{self._gate}/result", timeout=10) as answer:
                document: dict[str, Any] = json.load(answer)
                return document
        except (urllib.error.URLError, OSError, ValueError):
            return {}

    def verdict(self, seconds: float) -> dict[str, Any]:
        """The gate's first conclusive verdict, or its last one after `seconds`."""
        deadline, ended = time.monotonic() + seconds, None
        while True:
            seen = self.result()
            if seen.get("reason", NOT_YET[0]) not in NOT_YET:
                return seen
            now = time.monotonic()
            if ended is None and self._processes["engine"].poll() is not None:
                ended = now
            if now > deadline or (ended is not None and now > ended + EXIT_SECONDS):
                return seen
            time.sleep(0.5)

    def record(self) -> dict[str, Any]:
        """engine.json."""
        return read_json(self.folder / "run" / EngineRecord.FILE) or {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the engine first: a gate that loses its engine only logs that."""
        for name in ("engine", "gate"):
            process = self._processes[name]
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            kill_session(process.pid)
            process.wait(10)
            self.logs[name].close()


def kill_session(leader: int) -> None:
    """Kills the remaining processes of this process's session."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
