"""The queue's guarantees, one by one. Time is the loop's own clock, moved by hand."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from clock_loop import ClockLoop, pass_seconds
from flash_operator.runtime.workqueue import FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, TURNS, WorkQueue


def on_clock_loop(test: Callable[[WorkQueue[str]], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on such a loop, with a queue whose jitter is at its maximum."""

    def run() -> None:
        async def with_queue() -> None:
            queue: WorkQueue[str] = WorkQueue(jitter=lambda: 1.0)
            await test(queue)
            queue.close()

        with asyncio.Runner(loop_factory=ClockLoop) as runner:
            runner.run(with_queue())

    run.__name__ = test.__name__
    return run


@on_clock_loop
async def test_a_key_that_is_added_many_times_is_worked_on_once(queue: WorkQueue[str]) -> None:
    for _ in range(2000):
        queue.add("a")
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


@on_clock_loop
async def test_keys_come_in_the_order_in_which_they_were_added(queue: WorkQueue[str]) -> None:
    for key in "abcab":
        queue.add(key)
    assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]


@on_clock_loop
async def test_what_has_happened_comes_before_what_is_only_looked_at_again(queue: WorkQueue[str]) -> None:
    for number in range(1000):
        queue.add_patient(f"old-{number}")
    for key in ("new", "old-999", "newer"):
        queue.add(key)
    assert [await queue.get() for _ in range(3)] == ["new", "old-999", "newer"]
    assert len(queue) == 999


@on_clock_loop
async def test_a_key_that_is_only_looked_at_again_does_not_wait_for_ever(queue: WorkQueue[str]) -> None:
    queue.add_patient("resync")
    queue.add_after("timer", 1)
    await pass_seconds(1.1)
    came = []
    for number in range(20):
        queue.add(f"event-{number}")
        queue.add(f"more-{number}")
        came.append(await queue.get())
    assert {"resync", "timer"} <= set(came[: 2 * TURNS])
    assert len(queue) == 22


@on_clock_loop
async def test_an_event_during_the_work_on_a_key_is_urgent_afterwards(queue: WorkQueue[str]) -> None:
    queue.add_patient("a")
    await queue.get()
    queue.add_patient("a")
    queue.add("a")
    queue.add_patient("b")
    queue.done("a")
    assert [await queue.get(), await queue.get()] == ["a", "b"]


@on_clock_loop
async def test_an_active_key_is_not_given_to_a_second_worker(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await queue.get()
    queue.add("a")
    assert len(queue) == 0


@on_clock_loop
async def test_a_key_added_during_its_work_comes_again_afterwards(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.add("a")
    queue.done("a")
    assert len(queue) == 1
    assert await queue.get() == "a"


@on_clock_loop
async def test_a_delayed_key_comes_when_its_time_has_come(queue: WorkQueue[str]) -> None:
    queue.add_after("a", 5)
    await pass_seconds(4.9)
    assert len(queue) == 0
    await pass_seconds(0.2)
    assert len(queue) == 1


@on_clock_loop
async def test_the_earliest_of_several_times_counts(queue: WorkQueue[str]) -> None:
    queue.add_after("a", 5)
    queue.add_after("a", 50)
    queue.add_after("a", 2)
    await pass_seconds(2.1)
    assert len(queue) == 1
    await queue.get()
    queue.done("a")
    await pass_seconds(100)
    assert len(queue) == 0, "the later times were dropped"


@on_clock_loop
async def test_back_off_doubles_up_to_its_cap_and_starts_anew_after_a_success(queue: WorkQueue[str]) -> None:
    pauses = [queue.retry("a") for _ in range(12)]
    assert pauses[:4] == [FIRST_BACKOFF_SECONDS * factor for factor in (1, 2, 4, 8)]
    assert pauses[-1] == LONGEST_BACKOFF_SECONDS
    queue.succeeded("a")
    assert queue.retry("a") == FIRST_BACKOFF_SECONDS


@on_clock_loop
async def test_back_off_stays_at_its_cap_however_often_a_key_fails(queue: WorkQueue[str]) -> None:
    pauses = {queue.retry("a") for _ in range(2000)}
    assert max(pauses) == LONGEST_BACKOFF_SECONDS


@on_clock_loop
async def test_back_off_is_spread_by_jitter(queue: WorkQueue[str]) -> None:
    assert queue.retry("a") == FIRST_BACKOFF_SECONDS
    none: WorkQueue[str] = WorkQueue(jitter=lambda: 0.0)
    assert none.retry("a") == FIRST_BACKOFF_SECONDS / 2
    none.close()


@on_clock_loop
async def test_a_fresh_trigger_does_not_wait_for_the_back_off(queue: WorkQueue[str]) -> None:
    for _ in range(8):
        queue.retry("a")
    queue.add("a")
    assert len(queue) == 1
    await queue.get()
    queue.done("a")
    await pass_seconds(1000)
    assert len(queue) == 0, "the back-off was replaced, not added"


@on_clock_loop
async def test_a_forgotten_key_comes_no_more(queue: WorkQueue[str]) -> None:
    queue.retry("a")
    queue.forget("a")
    await pass_seconds(1000)
    assert (len(queue), queue.failures) == (0, 0)


@on_clock_loop
async def test_the_longest_wait_is_that_of_the_key_that_no_worker_has_taken(queue: WorkQueue[str]) -> None:
    assert queue.oldest_wait_seconds == 0
    queue.add("a")
    await pass_seconds(30)
    queue.add("b")
    assert queue.oldest_wait_seconds == 30
    await queue.get()
    await pass_seconds(5)
    assert queue.oldest_wait_seconds == 5, "a is being processed, b waits"
