"""The gate as a real process, as the kubelet starts, probes and terminates it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from engine_stub.engine import EngineStub
from gate_harness import CONFIG
from ports import a_free_port
from waiting import eventually


class GateProcess:
    """One gate process beside an engine."""

    def __init__(self, folder: Path, engine_url: str) -> None:
        self.address = f"http://127.0.0.1:{(port := a_free_port())}"
        self.log = folder / "gate.log"
        self._environment = {
            **os.environ,
            "KUBERNETES_SERVICE_HOST": "",
            "FLASH_GATE_CONFIG": str(folder / "gate.json"),
            "FLASH_RUN_DIR": str(folder),
            "FLASH_ENGINE_URL": engine_url,
            "FLASH_GATE_PORT": str(port),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flash_engine.gate"], env=self._environment, stderr=log
            )

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def reasons(self) -> list[object]:
        return [event["reason"] for event in self.events() if event["event"] == "verdict"]


@pytest.fixture
async def gate(engine: EngineStub, tmp_path: Path) -> AsyncIterator[GateProcess]:
    (tmp_path / "gate.json").write_text(json.dumps(CONFIG))
    async with TestServer(engine.app()) as server:
        made = GateProcess(tmp_path, str(server.make_url("")))
        yield made
        made.process.kill()
        made.process.wait()


async def until(gate: GateProcess, reason: str) -> None:
    """In a thread, because the engine stub runs in this event loop."""
    await asyncio.to_thread(eventually, lambda: gate.reasons()[-1:] == [reason], f"verdict {reason}", seen=gate.reasons)


async def test_it_becomes_ready_and_logs_each_verdict_as_a_line_of_json(gate: GateProcess) -> None:
    await until(gate, "Passed")

    async with aiohttp.ClientSession() as session:
        async with session.get(f"{gate.address}/readyz") as ready:
            assert (ready.status, (await ready.text())[:7]) == (200, "Passed:")
        async with session.get(f"{gate.address}/result") as result:
            document = await result.json()
        async with session.get(f"{gate.address}/healthz") as alive:
            assert alive.status == 200
    assert document["engine"]["phase"] == "WaitingForFlags", "there was no launcher, which is no reason not to judge"
    assert document["gateMillis"] > 0
    assert gate.reasons() == ["EngineStarting", "Passed"], "measured, and then judged"


async def test_it_is_not_ready_before_the_engine_is_and_ready_after(gate: GateProcess, engine: EngineStub) -> None:
    engine.traits.healthy = False
    await until(gate, "EngineStarting")
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{gate.address}/readyz") as ready,
    ):
        assert ready.status == 503
    engine.traits.healthy = True
    await until(gate, "Passed")


async def test_it_exits_on_sigterm(gate: GateProcess) -> None:
    await until(gate, "Passed")
    gate.process.terminate()
    assert gate.process.wait(timeout=20) == 0
    assert "Traceback" not in gate.log.read_text()


SETTINGS = {
    "no path of a configuration": ({"FLASH_RUN_DIR": "/run/flash"}, "FLASH_GATE_CONFIG"),
    "a port that is none": (
        {"FLASH_RUN_DIR": "/run/flash", "FLASH_GATE_CONFIG": "/gate.json", "FLASH_GATE_PORT": "http"},
        "'http'",
    ),
}


@pytest.mark.parametrize(("settings", "message"), SETTINGS.values(), ids=SETTINGS.keys())
def test_a_bad_setting_is_named(settings: dict[str, str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flash_engine.gate"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
