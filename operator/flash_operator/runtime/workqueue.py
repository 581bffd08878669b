"""A keyed, coalescing work queue with the guarantees of client-go's.

    - a key added several times before it is processed is processed once;
    - a key is never processed by two workers at a time;
    - a key added while it is processed is processed again afterwards;
    - a failed key backs off exponentially up to a cap; a success resets the back-off;
    - `add` does not wait for a back-off, and `add_after` keeps the earliest time;
    - after `close`, no key is handed out any more.

So reconciles are level-triggered: the number and order of events do not matter.

What has happened comes before what is only looked at again: a new deployment, or a pod that waits for its flags, does
not wait for the thousand others of a resync. Those get every fourth turn, so none waits for ever.
"""

import asyncio
import random
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 60.0
TURNS = 4
"""Of so many keys at least one is taken from those that are only looked at again, if there is one."""
MOST_DOUBLINGS = 10
"""More than the cap needs; a power without a bound overflows after 1,024 failures."""


def backoff(failures: int, first: float, longest: float, jitter: Callable[[], float] = random.random) -> float:
    """Seconds until the next attempt, doubled with each failure; the upper half is jitter."""
    doubled: float = min(first * 2 ** min(failures, MOST_DOUBLINGS), longest)
    return doubled * (0.5 + 0.5 * jitter())


class _Lanes(Generic[K]):
    """Keys that wait for a worker: those of events, and those that are only looked at again."""

    def __init__(self) -> None:
        self._urgent: dict[K, None] = {}
        self._patient: dict[K, None] = {}
        self._turn = 0

    def __len__(self) -> int:
        return len(self._urgent) + len(self._patient)

    def clear(self) -> None:
        self._urgent.clear()
        self._patient.clear()

    def push(self, key: K, *, urgent: bool) -> None:
        (self._urgent if urgent else self._patient)[key] = None

    def hurry(self, key: K) -> None:
        """An event has come for a key that may be waiting."""
        if key in self._patient:
            del self._patient[key]
            self._urgent[key] = None

    def pop(self) -> K:
        self._turn = (self._turn + 1) % TURNS
        is_patients = not self._urgent or (self._turn == 0 and self._patient)
        lane = self._patient if is_patients else self._urgent
        key = next(iter(lane))
        del lane[key]
        return key


class WorkQueue(Generic[K]):
    """A queue of keys. All methods must be called in one event loop."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._ready: _Lanes[K] = _Lanes()
        self._waiting = asyncio.Semaphore(0)
        """One for each key in the queue."""
        self._urgent: set[K] = set()
        """Keys to process for an event."""
        self._dirty: set[K] = set()
        """Keys to process: in the queue, or active and to be queued again."""
        self._active: set[K] = set()
        self._ready_since: dict[K, float] = {}
        """When each key in the queue was put there, by the loop's clock."""
        self._later: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._closed = False
        self._jitter = jitter

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def failures(self) -> int:
        """Keys whose last processing failed."""
        return len(self._failures)

    @property
    def oldest_wait_seconds(self) -> float:
        """How long the key that has waited longest for a worker has waited; 0 for an empty queue."""
        since = min(self._ready_since.values(), default=None)
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    def add(self, key: K) -> None:
        """Queues a key now, for something that has happened."""
        if not self._closed:
            self._urgent.add(key)
            self._ready.hurry(key)
        self.add_patient(key)

    def add_patient(self, key: K) -> None:
        """Queues a key now, to be looked at again."""
        self._cancel_later(key)
        if self._closed or key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._active:
            self._enqueue(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Queues a key later, unless it is due earlier already."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        known = self._later.get(key)
        if self._closed or key in self._dirty or (known is not None and known.when() <= due):
            return
        self._cancel_later(key)
        self._later[key] = loop.call_at(due, self.add_patient, key)

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """Queues a key after its back-off. Returns the seconds; the upper half is jitter."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        seconds = max(at_least, backoff(failures, FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, self._jitter))
        self.add_after(key, seconds)
        return seconds

    def succeeded(self, key: K) -> None:
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key, active until `done`."""
        await self._waiting.acquire()
        while not self._ready:  # `close` has emptied it
            await self._waiting.acquire()
        key = self._ready.pop()
        self._ready_since.pop(key, None)
        self._dirty.discard(key)
        self._urgent.discard(key)
        self._active.add(key)
        return key

    def done(self, key: K) -> None:
        """Marks a key as processed, successfully or not."""
        self._active.discard(key)
        if key in self._dirty:
            self._enqueue(key)

    def forget(self, key: K) -> None:
        """Drops the timer and the failures of a deleted key."""
        self._cancel_later(key)
        self._failures.pop(key, None)

    def close(self) -> None:
        """Accepts no more keys, and hands none out: not to a worker that waits for one either."""
        self._closed = True
        for key in list(self._later):
            self._cancel_later(key)
        self._dirty.clear()
        self._urgent.clear()
        self._ready_since.clear()
        self._ready.clear()

    def _enqueue(self, key: K) -> None:
        self._ready_since[key] = asyncio.get_running_loop().time()
        self._ready.push(key, urgent=key in self._urgent)
        self._waiting.release()

    def _cancel_later(self, key: K) -> None:
        timer = self._later.pop(key, None)
        if timer is not None:
            timer.cancel()
