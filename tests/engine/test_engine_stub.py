"""The engine stub behaves as its scripts say. If it were always healthy, the matrix would prove nothing.

As a process under the real launcher, it exits in ways that the gate distinguishes by the launcher's record.
"""

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from engine_stub import scripts
from engine_stub.engine import EngineStub, Script
from engine_stub.scripts import SCRIPTS, UnknownScriptError, hangs_after, having, read_script, slow, well_again
from engine_stub.virtual_time import run_in_virtual_time
from flash_contracts.engine_record import EngineRecord
from flash_engine.engine_metrics import EngineCounters
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.gate import Gate
from flash_engine.gate.verdict import Verdict
from gate_harness import GateHarness
from launcher_harness import FAST, Launcher
from ports import a_free_port

BODY = {"model": "m", "prompt": "p", "max_tokens": 256, "stream": True}


async def _play(*played: Script) -> tuple[float, EngineCounters]:
    """How many seconds a stream of 256 tokens takes, and the counters after it."""
    engine = EngineStub(*played, seed=3)
    clock = asyncio.get_running_loop().time
    async with TestServer(engine.app()) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url("/"))
        began = clock()
        async with session.post(f"{url}v1/completions", json=BODY) as answer:
            await answer.read()
        took = clock() - began
        async with session.get(f"{url}metrics") as page:
            return took, EngineCounters.parse(await page.text())


def test_a_paced_engine_has_its_pace_and_its_acceptance() -> None:
    took, counters = run_in_virtual_time(_play(scripts.paced(85, acceptance=0.9)))
    assert 256 / took == pytest.approx(85, rel=0.12)
    assert counters.drafted is not None
    assert counters.accepted is not None
    assert counters.accepted / counters.drafted == pytest.approx(0.9, abs=0.1)
    assert counters.generated == 256
    assert counters.decode_seconds == pytest.approx(took, rel=0.1)


async def _in_the_middle_of_a_step() -> EngineCounters:
    """The counters 2.5 s after the first token of a stream that decodes one token a second."""
    engine = EngineStub(having(step_seconds=1.0, acceptance=0.0, tokens_per_chunk=1))
    async with TestServer(engine.app()) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url("/"))
        async with session.post(f"{url}v1/completions", json=BODY) as answer:
            await answer.content.readline()
            await asyncio.sleep(2.5)
            async with session.get(f"{url}metrics") as page:
                return EngineCounters.parse(await page.text())


def test_tokens_and_the_time_between_them_are_counted_when_they_arrive_as_in_vllm() -> None:
    counters = run_in_virtual_time(_in_the_middle_of_a_step())
    assert counters.generated == 3
    assert counters.decode_seconds == pytest.approx(2.0)
    assert counters.latencies is not None
    assert dict(counters.latencies)[0.75] == 0
    assert dict(counters.latencies)[float("inf")] == 2


def test_a_dead_draft_costs_half_of_the_pace() -> None:
    took, counters = run_in_virtual_time(_play(scripts.paced(85, acceptance=0.9), scripts.dead_draft()))
    assert 256 / took == pytest.approx(45, rel=0.12)
    assert counters.accepted == 0


def test_scripts_compose_in_their_order() -> None:
    both = EngineStub(scripts.paced(85), scripts.slow(2), scripts.wrong_text("41")).traits
    assert (both.slow_down, both.answers, both.step_seconds > 0) == (2, ["41"], True)
    assert EngineStub(scripts.wrong_text("41"), scripts.wrong_text("42")).traits.answers == ["42"]


def test_a_script_is_read_from_a_line() -> None:
    traits = EngineStub(read_script("paced:tokens_per_second=50"), read_script("wrong_text:text=41!")).traits
    assert traits.step_seconds == pytest.approx(1.92 / 50)
    assert traits.answers == ["41!"]


@pytest.mark.parametrize("text", ["poem", "slow:colour=3", "having:nothing=1"])
def test_an_unknown_script_is_rejected(text: str) -> None:
    with pytest.raises(UnknownScriptError):
        read_script(text)


def test_an_unknown_trait_is_rejected() -> None:
    with pytest.raises(UnknownScriptError, match="colour"):
        EngineStub(having(colour="blue"))


def test_every_script_changes_something() -> None:
    healthy = vars(EngineStub().traits)
    idle = [name for name, make in SCRIPTS.items() if vars(EngineStub(make()).traits) == healthy]
    assert idle == ["well_again"]


def test_a_script_can_restore_the_healthy_behaviour() -> None:
    assert vars(EngineStub(slow(), hangs_after(), well_again()).traits) == vars(EngineStub().traits)


def test_a_process_rejects_an_unknown_script() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engine_stub", "--script", "poem"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "there are paced, noisy" in done.stderr


PROCESS = """
import os, sys
sys.argv = ["engine_stub", "--port", os.environ["ENGINE_PORT"], *os.environ["SCRIPTS"].split(), *sys.argv[1:]]
import runpy
runpy.run_module("engine_stub", run_name="__main__")
"""

DEATHS = {
    "dies while it loads": ("--script dies_at_load", "EngineExited", "MTP speculative decoding layer 43 weights"),
    "dies while it is measured": (
        "--script paced --script dies_after:tokens=30",
        "EngineExited",
        "illegal memory access",
    ),
    "runs out of GPU memory": ("--script runs_out_of_gpu_memory", "OutOfMemory", "CUDA out of memory"),
    "is killed, by the kernel or by anybody": (
        "--script paced --script leaks:megabytes_per_token=60",
        "EngineExited",
        "the pod does not record what killed it",
    ),
}


@pytest.mark.parametrize(("script", "reason", "message"), DEATHS.values(), ids=DEATHS.keys())
async def test_an_engine_process_that(
    harness: GateHarness, launcher: Launcher, script: str, reason: str, message: str
) -> None:
    """Launcher, engine and gate as in a pod: the reason follows from the launcher's record."""
    verdict = await until_judged(harness, launcher, script, reason)
    assert message in verdict.message


async def until_judged(harness: GateHarness, launcher: Launcher, script: str, reason: str, **more: str) -> Verdict:
    """The gate's verdict with this reason. Before that, it must never be ready."""
    port = a_free_port()
    launcher.pass_flags(json.dumps(FAST))
    paths = os.pathsep.join(sys.path)
    settings: dict[str, Any] = {"ENGINE_PORT": str(port), "SCRIPTS": script, "PYTHONPATH": paths, **more}
    launcher.start(launcher.program(PROCESS), "serve", **settings)
    harness.configure(decode={"minTokensPerSecond": 20})
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        client = EngineClient(session, f"http://127.0.0.1:{port}")
        gate = Gate(client, harness.run_dir / "gate.json", launcher.run_dir, lambda _state: None)
        async with asyncio.timeout(60):
            while gate.state.verdict.reason != reason:
                assert not gate.state.ready
                await gate.observe()
                await asyncio.sleep(0.1)
    return gate.state.verdict


async def test_an_engine_process_that_hangs_after_loading_passes_with_the_safe_flags(
    harness: GateHarness, launcher: Launcher
) -> None:
    script = "--script paced --hangs-with-peer-to-peer"
    await until_judged(harness, launcher, script, "Passed", FLASH_HANG_SECONDS="1")
    record = EngineRecord.read_or_new(launcher.run_dir / "engine.json")
    assert record.incident
    assert (record.starts, record.incident.kind, record.incident.signature) == (2, "hang", "S2")
    assert record.incident.evidence["lastLine"].endswith("Loading weights took 31.20 seconds")
