"""A real vLLM on a CPU, started by the real launcher, with the plugin in it."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from direct_http import WITHOUT_PROXY
from fake_checkpoint import FakeCheckpoint
from flash_contracts.engine_pod import API_KEYS_ARGUMENT, API_KEYS_DIR
from flash_contracts.engine_record import PLUGIN_LINE, EngineRecord
from flash_engine.api_keys import UNAUTHORISED
from launcher_harness import FAST
from ports import a_free_port
from tiny_model import GOLDEN_COMPLETION, GOLDEN_PROMPT, build
from vllm_walk.environment import Environment
from vllm_walk.walk import lay_out_entry_point
from waiting import eventually

LOADING_SECONDS = 150
KEY = "key-of-team-a"
MTP = '--speculative-config={"method":"mtp","num_speculative_tokens":1}'

pytestmark = pytest.mark.timeout(300)


class Engine:
    """The launcher as it runs in a pod, and vLLM below it."""

    def __init__(self, environment: Environment, folder: Path, model: Path, *, check: str) -> None:
        self._folder, self.port = folder, a_free_port()
        command = folder / "vllm"
        command.write_text(f'#!/bin/sh\nexec {environment.python} -m vllm.entrypoints.cli.main "$@"\n')
        command.chmod(0o755)
        (folder / "node").mkdir()
        (folder / "run").mkdir()
        (folder / "node/engine-flags").write_text(json.dumps(FAST))
        settings = {
            "FLASH_RUN_DIR": str(folder / "run"), "FLASH_NODE_DIR": str(folder / "node"),
            "FLASH_FALLBACK_FLAGS": json.dumps(FAST), "FLASH_ENGINE_COMMAND": str(command),
            "FLASH_MODEL_CHECK": check, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "HOME": str(folder), API_KEYS_DIR: str(folder / "keys"),
        }  # fmt: skip
        (folder / "keys").mkdir()
        (folder / "keys/team-a").write_text(f"{KEY}\n")
        self._log = (folder / "log").open("w")
        # The launcher runs in this Python, and vLLM in that of the walk, with our packages on its path.
        launched = environment.variables(entry_point(folder), cuda=False) | settings
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flash_engine.launcher", "serve", str(model), f"--port={self.port}",
             "--host=127.0.0.1", "--served-model-name=tiny", "--max-model-len=1024", "--max-num-seqs=2",
             "--dtype=bfloat16", "--enforce-eager", MTP, API_KEYS_ARGUMENT],
            env=launched, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    @property
    def record(self) -> EngineRecord:
        return EngineRecord.read_or_new(self._folder / "run/engine.json")

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def wait_until_healthy(self) -> None:
        eventually(
            self._answers, "vLLM is healthy", seconds=LOADING_SECONDS, pause=0.5,
            alive=self._runs, seen=lambda: self.log[-3000:],
        )  # fmt: skip

    def _runs(self) -> bool:
        return self._process.poll() is None

    def _answers(self) -> bool:
        try:
            with WITHOUT_PROXY.open(f"http://127.0.0.1:{self.port}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def complete(self, prompt: str, tokens: int, key: str = KEY) -> str:
        body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions", json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
        )  # fmt: skip
        with WITHOUT_PROXY.open(asked, timeout=60) as answer:
            return str(json.load(answer)["choices"][0]["text"])

    def takes(self, key: str) -> bool:
        """Whether it accepts this key. Raises urllib.error.HTTPError for another failure."""
        try:
            return bool(self.complete(GOLDEN_PROMPT, 1, key=key))
        except urllib.error.HTTPError as error:
            if error.code != UNAUTHORISED:
                raise
            return False

    def wait(self) -> int:
        return self._process.wait(LOADING_SECONDS)

    def end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGTERM):
            if self._process.poll() is None:
                self._process.send_signal(number)
                try:
                    self._process.wait(20)
                except subprocess.TimeoutExpired:
                    continue
        self._log.close()


def entry_point(folder: Path) -> Path:
    """The metadata by which vLLM finds the plugin."""
    made = folder / "entry"
    made.mkdir()
    lay_out_entry_point(made)
    return made


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    """Processes started by a test; all are ended afterwards."""
    started: list[Engine] = []
    yield started
    for one in started:
        one.end()


def test_a_tiny_model_is_served_and_the_plugin_is_known_to_be_there(
    environment: Environment, engines: list[Engine], tmp_path: Path
) -> None:
    model = build(tmp_path / "models") / "good"
    engine = Engine(environment, tmp_path, model, check="files")
    engines.append(engine)
    engine.wait_until_healthy()

    assert engine.complete(GOLDEN_PROMPT, 16) == GOLDEN_COMPLETION
    assert engine.record.plugin == f"{PLUGIN_LINE}: vLLM 0.32.0+cpu"
    assert engine.record.rejection is None
    must_know_its_keys(engine, tmp_path / "keys")


def must_know_its_keys(engine: Engine, keys: Path) -> None:
    """It accepts only the keys that are in the files now, and shows none."""
    assert not engine.takes("another")
    (keys / "team-b").write_text("new-key")
    (keys / "team-a").unlink()
    eventually(lambda: engine.takes("new-key"), "the new key is taken", seconds=10)
    eventually(lambda: not engine.takes(KEY), "the removed key is rejected", seconds=10)
    assert KEY not in engine.log + str(engine.record)


def test_without_the_launchers_check_the_plugin_stops_vllm(
    environment: Environment, engines: list[Engine], tmp_path: Path
) -> None:
    made = FakeCheckpoint.make("seed")
    made.drop("mtp.0.e_proj")
    engine = Engine(environment, tmp_path, made.save_to_serve(tmp_path / "model"), check="off")
    engines.append(engine)

    assert engine.wait() == 1
    record = engine.record
    assert record.exit is not None
    assert [line for line in record.exit.last_lines if "ModelRejected" in line and "mtp.0.e_proj.weight" in line]
