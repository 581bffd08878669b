"""The gate beside an engine that serves: when it measures again, when readiness goes, and when it comes back.

By the virtual clock, so that minutes of traffic are tested in a moment.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer

from engine_stub.engine import EngineStub, Script
from engine_stub.scripts import dead_draft, hangs_after, having, paced, slow, wrong_text
from engine_stub.virtual_time import run_in_virtual_time
from flash_contracts.document import write_json
from flash_contracts.engine_pod import QUARANTINE_FILE, TRIAL_FILE, DrainRequest, FaultReport
from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_result import GateResult
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.gate import Gate, State
from flash_engine.gate.pod_annotations import FLOOR_FILE
from flash_engine.gate.result import result_of
from gate_matrix.run import CONFIG, merged
from waiting import eventually_async

STARTED = "2026-11-24T12:00:00.000Z"
WELL = having(slow_down=1.0, acceptance=0.92, hang_after_tokens=None)


@dataclass
class Site:
    """A gate that watches by itself, an engine, and users that come and go."""

    gate: Gate
    engine: EngineStub
    folder: Path
    url: str
    session: aiohttp.ClientSession
    seen: list[tuple[float, str, bool]] = field(default_factory=list)
    """When the verdict or readiness changed: seconds, reason, ready."""
    _users: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def state(self) -> State:
        return self.gate.state

    def result(self) -> GateResult:
        """As the operator reads it."""
        return GateResult.of(json.loads(json.dumps(result_of(self.gate.state, self.gate.config, None).to_json())))

    def configure(self, **changes: Any) -> None:
        (self.folder / "gate.json").write_text(json.dumps(merged(CONFIG, changes)))

    def record(self, **fields: Any) -> None:
        record = EngineRecord(**{"phase": "Starting", "pid": 7, "started_at": STARTED, "starts": 1, **fields})
        record.write(self.folder / EngineRecord.FILE)

    def note(self, state: State) -> None:
        change = (state.verdict.reason, state.ready)
        if not self.seen or self.seen[-1][1:] != change:
            self.seen.append((asyncio.get_running_loop().time(), *change))

    def grant(self) -> None:
        assert self.state.degraded is not None
        (self.folder / QUARANTINE_FILE).write_text(self.state.degraded.since)

    def come(self, users: int = 1, tokens: int = 200) -> None:
        self._users += [asyncio.create_task(self._use(tokens)) for _ in range(users)]

    async def go(self) -> None:
        for user in self._users:
            user.cancel()
        await asyncio.gather(*self._users, return_exceptions=True)
        self._users.clear()

    async def _use(self, tokens: int) -> None:
        body = {"model": "m", "prompt": "p", "max_tokens": tokens, "stream": True}
        while True:
            async with self.session.post(f"{self.url}v1/completions", json=body) as answer:
                await answer.read()

    async def until(self, what: Callable[[State], bool], seconds: float = 120) -> float:
        """How long it took."""
        clock = asyncio.get_running_loop().time
        began = clock()
        await eventually_async(
            lambda: what(self.state), "the gate's state", seconds=seconds, pause=0.1, seen=lambda: self.state
        )
        return clock() - began


def play(folder: Path, story: Callable[[Site], Awaitable[None]], *scripts: Script, **config: Any) -> Site:
    """Run a story beside a healthy engine (and what else the scripts say)."""

    async def run() -> Site:
        engine = EngineStub(paced(), *scripts)
        connector = aiohttp.TCPConnector(force_close=True)
        async with TestServer(engine.app()) as server, aiohttp.ClientSession(connector=connector) as session:
            url = str(server.make_url("/"))
            made: list[Site] = []

            def note(state: State) -> None:
                made[0].note(state)

            gate = Gate(EngineClient(session, url), folder / "gate.json", folder, note, node_dir=folder)
            made.append(Site(gate, engine, folder, url, session))
            made[0].configure(**config)
            made[0].record()
            watching = asyncio.create_task(gate.watch())
            await story(made[0])
            await made[0].go()
            watching.cancel()
            return made[0]

    return run_in_virtual_time(run())


def passed(state: State) -> bool:
    return state.verdict.passed


def degraded(state: State) -> bool:
    return state.verdict.reason == "Degraded"


def ready(state: State) -> bool:
    return state.ready


def not_ready(state: State) -> bool:
    return not state.ready


def test_a_slow_replica_serves_until_it_is_granted_to_leave_and_is_back_when_it_is_well(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.come()
        await asyncio.sleep(5)
        site.engine.play(slow(3))
        await site.until(degraded)
        await asyncio.sleep(30)
        assert ready(site.state), "nothing was granted, and slow is better than nothing"
        assert site.result().serving.degraded is not None
        site.grant()
        await site.until(not_ready)
        await site.go()
        await asyncio.sleep(20)
        assert not_ready(site.state), "measured again, and still slow"
        assert site.state.degraded is not None
        assert site.state.degraded.measured
        site.engine.play(WELL)
        await site.until(passed)
        assert ready(site.state)
        assert site.result().serving.degraded is None

    site = play(tmp_path, story)
    assert [reason for _, reason, _ in site.seen if reason != "EngineStarting"][:2] == ["Passed", "Degraded"]


def test_a_grant_of_an_earlier_wish_takes_nobody_out(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        (site.folder / QUARANTINE_FILE).write_text("2026-11-24T11:00:00.000Z")
        await site.until(passed)
        site.come()
        site.engine.play(slow(3))
        await site.until(degraded)
        await asyncio.sleep(20)
        assert site.state.ready

    play(tmp_path, story)


def test_a_grant_does_not_count_where_it_is_only_to_be_reported(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.come()
        site.engine.play(slow(3))
        await site.until(degraded)
        site.grant()
        await asyncio.sleep(20)
        assert site.state.ready

    play(tmp_path, story, serving={"onDegraded": "Report"})


def test_a_suspicion_is_measured_as_soon_as_nobody_is_on_the_engine(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.come()
        await asyncio.sleep(5)
        site.engine.play(slow(3))
        await asyncio.sleep(8)
        assert site.state.verdict.passed, "not believed yet"
        await site.go()
        await site.until(degraded, seconds=20)
        assert site.state.degraded is not None
        assert site.state.degraded.measured
        assert "TooSlow: decode" in site.state.verdict.message

    play(tmp_path, story)


def test_a_false_suspicion_is_cleared_by_a_measurement_and_nobody_noticed(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.come()
        await asyncio.sleep(5)
        site.engine.play(slow(3))
        await asyncio.sleep(8)
        site.engine.play(WELL)
        await site.go()
        await asyncio.sleep(30)

    site = play(tmp_path, story)
    assert [(reason, is_ready) for _, reason, is_ready in site.seen][-1] == ("Passed", True)
    assert not any(reason == "Degraded" for _, reason, _ in site.seen)


def test_an_engine_that_serves_well_is_never_asked_anything(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        asked = (site.engine.count("chat"), site.state.attempts)
        site.come(users=3)
        await asyncio.sleep(120)
        await site.go()
        await asyncio.sleep(120)
        assert (site.engine.count("chat"), site.state.attempts) == asked

    site = play(tmp_path, story)
    assert [is_ready for _, _, is_ready in site.seen] == [False, True] or site.seen[-1][2]


def test_a_draft_that_dies_is_degraded(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.come(users=2)
        site.engine.play(dead_draft())
        await site.until(degraded)
        assert "MTP head is dead" in site.state.verdict.message

    play(tmp_path, story)


def test_a_hang_takes_readiness_at_once_and_asks_for_another_start(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.come()
        await asyncio.sleep(5)
        site.engine.play(hangs_after(1))
        took = await site.until(not_ready)
        assert took <= CONFIG["serving"]["stallSeconds"] + 2 * CONFIG["serving"]["watchSeconds"] + 1
        assert site.state.hung
        assert site.state.restart
        assert "it hangs" in site.state.verdict.message
        told = json.loads((site.folder / FaultReport.FILE).read_text())
        assert (told["kind"], told["signature"], told["pid"]) == ("hang", "S3", 7)
        await site.go()
        site.record(pid=8, started_at="2026-11-24T13:00:00.000Z")
        site.engine.play(WELL)
        await site.until(passed)

    play(tmp_path, story)


def test_an_engine_that_only_answers_late_is_not_started_anew(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.engine.play(having(first_token_seconds=5.0, step_seconds=0.5))
        site.come(users=4)
        for _ in range(200):
            await asyncio.sleep(0.5)
            assert not site.state.restart

    play(tmp_path, story)


def test_a_restart_is_asked_for_where_it_is_wanted_and_the_replica_is_out_and_measured(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.come()
        site.engine.play(slow(3))
        await site.until(degraded)
        assert not site.state.restart
        site.grant()
        await site.until(not_ready)
        assert not site.state.restart, "traffic alone tells, and may mislead"
        await site.go()
        await site.until(lambda state: state.restart)

    play(tmp_path, story, serving={"onDegraded": "Restart"})


def test_wrong_answers_found_while_measuring_again_take_readiness_at_once(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.come()
        await asyncio.sleep(3)
        site.engine.play(slow(3), wrong_text())
        await asyncio.sleep(8)
        await site.go()
        await site.until(not_ready)
        assert site.state.verdict.reason == "WrongOutput"

    play(tmp_path, story)


def test_a_drain_takes_readiness_and_the_next_run_has_it_again(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        write_json(site.folder / DrainRequest.FILE, {"version": 1, "pid": 7, "startedAt": STARTED})
        await site.until(not_ready, seconds=3)
        assert site.state.verdict.passed, "it leaves, and is none the worse"
        assert site.result().serving.draining
        site.record(pid=8, started_at="2026-11-24T13:00:00.000Z")
        await site.until(ready)

    play(tmp_path, story)


def test_a_learned_floor_is_waited_for_and_held_to(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await asyncio.sleep(5)
        assert site.state.attempts == 0, "it waits"
        (site.folder / FLOOR_FILE).write_text('{"minTokensPerSecond": 100, "told": "learned from 5 like it"}')
        await site.until(lambda state: state.verdict.reason == "TooSlow")
        assert "wanted at least 100 (learned from 5 like it)" in site.state.verdict.message
        wanted = site.result().wanted
        assert wanted is not None
        assert (wanted.decode_tokens_per_second, wanted.floor_origin) == (100, "Learned")

    play(tmp_path, story, floorFrom="Learned")


def test_without_an_operator_the_fixed_floor_must_do(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        assert 20 <= await site.until(passed) <= 30

    play(tmp_path, story, floorFrom="Learned")


def test_an_engine_whose_metrics_lack_something_is_not_watched_and_says_so(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.engine.traits.missing_metric = "vllm:num_requests_running"
        await asyncio.sleep(5)
        assert site.state.blind is not None
        assert "vllm:num_requests_running" in site.state.blind
        assert site.state.ready

    play(tmp_path, story)


def another_life(site: Site) -> Gate:
    """The gate's process was started anew; engine, files and users are as they were."""
    return Gate(
        EngineClient(site.session, site.url),
        site.folder / "gate.json",
        site.folder,
        lambda _: None,
        node_dir=site.folder,
    )


def test_a_gate_that_is_started_anew_is_ready_at_once_and_asks_nothing(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.come()
        asked = site.engine.count("chat")
        again = another_life(site)
        await again.look()
        assert again.state.ready
        assert again.state.verdict == site.state.verdict
        assert site.engine.count("chat") == asked
        site.engine.play(slow(3))
        async with asyncio.timeout(60):
            while again.state.degraded is None:
                await again.look()
                await asyncio.sleep(1)

    play(tmp_path, story)


def test_what_it_remembers_is_judged_by_the_floors_of_today(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.configure(decode={"minTokensPerSecond": 500}, retrySeconds=3600)
        again = another_life(site)
        await again.look()
        assert (again.state.verdict.reason, again.state.attempts) == ("TooSlow", 0)

    play(tmp_path, story)


def test_another_question_is_not_remembered(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.configure(golden={"prompt": "6 x 7?"})
        again = another_life(site)
        await again.look()
        assert again.state.attempts == 1

    play(tmp_path, story)


def test_another_run_is_not_remembered(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        remembered = (site.folder / TRIAL_FILE).read_text()
        site.record(pid=8, started_at="2026-11-24T13:00:00.000Z")
        (site.folder / TRIAL_FILE).write_text(remembered)
        again = another_life(site)
        await again.look()
        assert again.state.attempts == 1

    play(tmp_path, story)


def test_a_memory_that_makes_no_sense_is_none(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        for text in ("{", '{"pid": 7, "startedAt": "' + STARTED + '"}'):
            (site.folder / TRIAL_FILE).write_text(text)
            again = another_life(site)
            await again.look()
            assert again.state.attempts == 1

    play(tmp_path, story)


def test_a_replica_that_was_taken_out_stays_out_over_a_restart_of_its_gate(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.come()
        site.engine.play(slow(3))
        await site.until(degraded)
        site.grant()
        await site.until(not_ready)
        again = another_life(site)
        await again.look()
        assert not again.state.ready
        assert again.state.degraded == site.state.degraded

    play(tmp_path, story)


def test_a_floor_that_is_raised_takes_readiness_though_the_engine_was_only_degraded(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.until(passed)
        site.come()
        site.engine.play(slow(3))
        await site.until(degraded)
        assert ready(site.state)
        site.configure(decode={"minTokensPerSecond": 500}, retrySeconds=3600)
        await site.until(not_ready, seconds=5)
        assert site.state.verdict.reason == "TooSlow"

    play(tmp_path, story)
