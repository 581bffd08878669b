"""Workers that process the queue."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from flash_operator.runtime.cluster import ApiError, UnreachableError
from flash_operator.runtime.keys import FlashKey, Key, NodeKey
from flash_operator.runtime.metrics import Metrics
from flash_operator.runtime.node_reconciler import NodeReconciler
from flash_operator.runtime.reconciler import Reconciler
from flash_operator.runtime.resync import Resync
from flash_operator.runtime.workqueue import WorkQueue

log = structlog.get_logger("flash.workers")


class Workers:
    """Owns the worker tasks. Start and stop them in kopf's lifecycle: at its end it cancels all tasks of its loop."""

    def __init__(
        self,
        queue: WorkQueue[Key],
        reconciler: Reconciler,
        nodes: NodeReconciler,
        resync: Resync,
        metrics: Metrics,
        watching: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """`watching` runs beside the workers, for as long as they do."""
        self._queue = queue
        self._reconciler = reconciler
        self._nodes = nodes
        self._resync = resync
        self._metrics = metrics
        self._watching = watching
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.failed = asyncio.Event()
        """A task has ended without `stop`: the process must exit, because keys would never be processed."""
        self.failure: BaseException | None = None
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self, workers: int, resync_seconds: float) -> None:
        loops = [self._work() for _ in range(workers)]
        watching = [self._watching()] if self._watching else []
        self._tasks = [asyncio.create_task(loop) for loop in (*loops, *watching, self._resync.run(resync_seconds))]
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)

    async def stop(self, patience: float = 10.0) -> None:
        """Waits for running reconciles to finish, then cancels the tasks."""
        self._stopping = True
        self._queue.close()
        stopping = asyncio.wait_for(self._idle.wait(), patience)
        try:
            await stopping
        except TimeoutError:
            log.warning("reconciles were cancelled", busy=self._busy)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not self._stopping and not task.cancelled():
            self.failure = task.exception()
            self.failed.set()

    async def _work(self) -> None:
        """Begins no reconcile before everything is loaded, nor after `stop`, when the lease may be lost."""
        await self._resync.loaded.wait()
        while not self._stopping:
            key = await self._queue.get()
            self._busy += 1
            self._idle.clear()
            try:
                await self._work_on(key)
            finally:
                self._queue.done(key)
                self._busy -= 1
                if self._busy == 0:
                    self._idle.set()

    async def _work_on(self, key: Key) -> None:
        """One reconcile. An error of one deployment must not end the worker."""
        began = time.monotonic()
        try:
            again = await self._reconcile(key)
        except (ApiError, UnreachableError) as error:
            self._metrics.reconciled(key, "error", time.monotonic() - began)
            seconds = self._queue.retry(key, error.retry_after)
            log.warning("reconcile failed", key=str(key), error=str(error), retry_seconds=round(seconds, 1))
        except Exception:
            self._metrics.reconciled(key, "bug", time.monotonic() - began)
            log.exception("reconcile broke", key=str(key), retry_seconds=round(self._queue.retry(key), 1))
        else:
            self._metrics.reconciled(key, "success", time.monotonic() - began)
            self._queue.succeeded(key)
            if again is not None:
                self._queue.add_after(key, again)

    async def _reconcile(self, key: Key) -> float | None:
        match key:
            case FlashKey():
                return await self._reconciler.reconcile(key)
            case NodeKey():
                return await self._nodes.reconcile(key)
