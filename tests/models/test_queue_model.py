"""The work queue against a model of its promises, with any order of triggers, workers, failures and time."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clock_loop import ClockLoop, pass_seconds
from flash_operator.runtime.workqueue import FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, WorkQueue
from state_machines import play_long, play_short

KEYS = st.sampled_from("abcd")
SECONDS = st.sampled_from([0.0, 0.3, 1.0, 5.0, 59.0, 300.0])
MOST_WORKERS = 3


class QueueModel(RuleBasedStateMachine):
    """The model: which keys wait, which are processed, and which are due when."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=ClockLoop)
        self.queue: WorkQueue[str] = WorkQueue(jitter=lambda: 1.0)
        self.waiting: list[str] = []
        self.again: set[str] = set()
        """Triggered while they were processed."""
        self.active: list[str] = []
        self.due: dict[str, float] = {}
        self.idle: list[asyncio.Task[str]] = []
        """Workers without a key."""
        self.closed = False

    def teardown(self) -> None:
        if not self.closed:
            self.drain()
        self.run(lambda: [worker.cancel() for worker in self.idle])
        self.runner.close()

    def drain(self) -> None:
        """No key is lost: workers that trigger nothing more get each key that waits or is due."""
        self.pass_time(LONGEST_BACKOFF_SECONDS * 10)
        while self.active or self.waiting:
            if not self.active:
                self.begin_work()
            self.end_work(0, "success", 0.0)
        assert len(self.queue) == 0

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.run(lambda: self.queue.add(key))
        self.expect(key)

    @rule(key=KEYS, seconds=SECONDS)
    def add_after(self, key: str, seconds: float) -> None:
        self.run(lambda: self.queue.add_after(key, seconds))
        self.expect_after(key, seconds)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.run(lambda: self.queue.forget(key))
        self.due.pop(key, None)

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: float) -> None:
        self.runner.run(pass_seconds(seconds))
        for key in sorted(self.due, key=lambda key: self.due[key]):
            if self.due[key] <= self.now:
                self.trigger(key)
        self.hand_out()

    @precondition(lambda self: len(self.idle) + len(self.active) < MOST_WORKERS)
    @rule()
    def begin_work(self) -> None:
        async def begin() -> None:
            self.idle.append(asyncio.create_task(self.queue.get()))

        self.runner.run(begin())
        self.hand_out()

    @precondition(lambda self: self.active)
    @rule(which=st.integers(0, MOST_WORKERS), outcome=st.sampled_from(["success", "failure", "later"]), seconds=SECONDS)
    def end_work(self, which: int, outcome: str, seconds: float) -> None:
        """As the workers do: the next time is set first, and then the key is done."""
        key = self.active[which % len(self.active)]
        if outcome == "failure":
            pause = self.run(lambda: self.queue.retry(key))
            assert FIRST_BACKOFF_SECONDS / 2 <= pause <= LONGEST_BACKOFF_SECONDS
            self.expect_after(key, pause)
        else:
            self.run(lambda: self.queue.succeeded(key))
        if outcome == "later":
            self.add_after(key, seconds)
        self.run(lambda: self.queue.done(key))
        self.active.remove(key)
        if key in self.again:
            self.again.discard(key)
            self.waiting.append(key)
        self.hand_out()

    @rule()
    def close(self) -> None:
        self.run(self.queue.close)
        self.closed = True
        self.waiting, self.again, self.due = [], set(), {}

    @invariant()
    def the_queue_does_what_the_model_says(self) -> None:
        """No key is with two workers, and a worker without a key waits for one."""
        self.runner.run(pass_seconds(0))
        assert len(set(self.active)) == len(self.active)
        assert len(self.queue) == len(self.waiting)
        assert not any(worker.done() for worker in self.idle)

    @property
    def now(self) -> float:
        return self.runner.get_loop().time()

    def run(self, act: Callable[[], object]) -> float:
        async def step() -> object:
            return act()

        answer = self.runner.run(step())
        return answer if isinstance(answer, float) else 0.0

    def expect(self, key: str) -> None:
        """The key is triggered now."""
        self.trigger(key)
        self.hand_out()

    def trigger(self, key: str) -> None:
        self.due.pop(key, None)
        if self.closed or key in self.waiting:
            return
        if key in self.active:
            self.again.add(key)
        else:
            self.waiting.append(key)

    def expect_after(self, key: str, seconds: float) -> None:
        """A trigger that comes anyway makes a later one needless; one that is due at once comes now."""
        if not (self.closed or key in self.waiting or key in self.again):
            self.due[key] = min(self.due.get(key, float("inf")), self.now + seconds)
        self.pass_time(0)

    def hand_out(self) -> None:
        """A key in the queue goes to the first worker that waits. Which one is up to the lanes (tests/runtime)."""
        self.runner.run(pass_seconds(0))
        while self.idle and self.waiting:
            worker = self.idle.pop(0)
            assert worker.done()
            self.waiting.remove(worker.result())
            self.active.append(worker.result())


def test_the_queue_keeps_its_promises() -> None:
    play_short(QueueModel, examples=60, steps=40)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_queue_keeps_its_promises_in_many_orders() -> None:
    play_long(QueueModel, examples=5000)
