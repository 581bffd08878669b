"""Starts the operator: settings, API client, health, leader election, and kopf while leading.

Exit codes: 0 stopped by a signal; 1 a part ended unexpectedly (the Deployment restarts the pod); 2 bad settings, or the
CRD is not installed.
"""

import asyncio
import signal
import sys

import aiohttp
import kopf
import structlog

from flash_contracts.names import KIND
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime import logs
from flash_operator.runtime.activator_routes import RouteBoard, RouteServer
from flash_operator.runtime.activators import Activators
from flash_operator.runtime.child_watches import ChildWatches
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.demand_board import DemandCollector
from flash_operator.runtime.demand_server import DemandServer
from flash_operator.runtime.deployment_collector import DeploymentCollector, NodeCollector
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.health import Health
from flash_operator.runtime.keys import Key
from flash_operator.runtime.leader_only import LeaderOnly
from flash_operator.runtime.lease import LeaderLease, LeaseLostError
from flash_operator.runtime.metrics import Metrics
from flash_operator.runtime.node_reconciler import NodeReconciler
from flash_operator.runtime.observer import Observer
from flash_operator.runtime.reconciler import Reconciler
from flash_operator.runtime.resync import Resync
from flash_operator.runtime.settings import OperatorSettings
from flash_operator.runtime.store import Store
from flash_operator.runtime.watches import Watches, kopf_settings
from flash_operator.runtime.workers import Workers
from flash_operator.runtime.workqueue import WorkQueue

log = structlog.get_logger("flash")

OK, ENDED, UNUSABLE = 0, 1, 2

CRD_SECONDS = 60


class CrdMissingError(RuntimeError):
    """The CRD is not installed; the message says how to install it."""


class Operator:
    """One operator process."""

    def __init__(self, settings: OperatorSettings, cluster: Cluster, session: aiohttp.ClientSession) -> None:
        self.settings = settings
        self.cluster = cluster
        self.queue: WorkQueue[Key] = WorkQueue()
        self.metrics = Metrics()
        of_class = settings.operator_class
        self.lease = LeaderLease(
            cluster,
            settings.lease_namespace,
            settings.identity,
            operator_class=of_class,
            address=settings.address,
        )
        self.store = Store()
        self.gates = Gates(session, on_change=self.queue.add, on_look=self.metrics.looked)
        routes = RouteBoard()
        self.activators = self._activators_of(settings, session, routes)
        self.observer = Observer(
            self.store,
            cluster,
            self.gates,
            settings.plan,
            namespace=settings.namespace,
            operator_class=of_class,
            activators=self.activators,
        )
        cluster.answered = self._keep
        cluster.count_with(self.metrics.requested)
        reconciler = Reconciler(cluster, self.observer, settings.identity, routes=routes)
        self._expose(reconciler)
        leader = LeaderOnly(session, lambda: self.health.leading, lambda: self.lease.leader_address)
        demand, route_server = DemandServer(reconciler.demand, leader), RouteServer(routes, leader)
        self.health = Health(
            self.metrics,
            settings.resync_seconds,
            self._refresh_metrics,
            lambda: self.queue.oldest_wait_seconds,
            routes=(demand.route, route_server.route),
        )
        nodes = NodeReconciler(cluster, settings.p2p_test, settings.identity, namespace=settings.namespace)
        self.resync = Resync(self.store, self.queue, cluster, self.metrics, settings.namespace, of_class)
        self.watches = Watches(self.store, self.queue, self.resync.relist, of_class, cluster.own_writes)
        self.children = ChildWatches(self.store, cluster, self.resync, self.watches.on_child, settings.namespace)
        self.workers = Workers(self.queue, reconciler, nodes, self.resync, self.metrics, self._follow)
        self.watches.on_lifecycle(self._start_workers, self.workers.stop)
        self._stop = asyncio.Event()

    def _expose(self, reconciler: Reconciler) -> None:
        """The metrics that are computed from memory for each scrape."""
        board, gates = reconciler.demand, self.gates
        self.metrics.registry.register(DemandCollector(board))
        self.metrics.registry.register(DeploymentCollector(board, self.store, reconciler.rollbacks, gates.silent))
        self.metrics.registry.register(NodeCollector(self.store, lambda: self.health.leading))

    def _activators_of(
        self, settings: OperatorSettings, session: aiohttp.ClientSession, routes: RouteBoard
    ) -> Activators | None:
        if not settings.activator_service:
            return None
        service = (settings.lease_namespace, settings.activator_service)
        return Activators(self.cluster, session, service, routes.keys, self.queue.add)

    def _keep(self, answer: RawObject) -> None:
        """What the API server has answered to a write."""
        self.store.put(answer)
        self.observer.slices.put(answer)

    async def _follow(self) -> None:
        """Everything that is followed beside the workers."""
        await self.resync.loaded.wait()
        # kopf has taken the signals by now. It would stop by them too, but wait 5 s for its own look at the flag.
        stop_on_signals(self._stop)
        slices = self.observer.slices.run(self.settings.resync_seconds, self.queue.add_patient)
        activators = [self.activators.run()] if self.activators else []
        reviews = self.observer.reviews.run(self.queue.add_patient)
        await asyncio.gather(self.children.run(), slices, reviews, self.observer.reviews.follow_crd(), *activators)

    async def run(self, stop: asyncio.Event) -> int:
        """Waits for the lease, leads, and releases it. The process ends when either the lease or kopf ends."""
        self._stop = stop
        await self.health.start(self.settings.health_port)
        try:
            if not await _first(self._wait_for_crd(), stop):
                return OK
            if not await _first(self.lease.acquire(), stop):
                return OK
            return await self._lead(stop)
        finally:
            await self.lease.release()
            await self.health.stop()
            await self.gates.close()

    async def _lead(self, stop: asyncio.Event) -> int:
        self.health.leading = True
        self.cluster.seconds_to_write = self.lease.seconds_left
        self.metrics.leader.set(1)
        self.metrics.resynced()
        watching = asyncio.create_task(self._watch(stop))
        holding = asyncio.create_task(self.lease.hold())
        failing = asyncio.create_task(self.workers.failed.wait())
        await asyncio.wait({watching, holding, failing}, return_when=asyncio.FIRST_COMPLETED)
        lost = holding.done()
        stop.set()
        holding.cancel()
        failing.cancel()
        ended, held = await asyncio.gather(watching, holding, return_exceptions=True)
        self.health.leading = False
        error = held if lost else self.workers.failure or ended
        if isinstance(error, BaseException):
            log.error("ended", error=repr(error), lease_lost=isinstance(held, LeaseLostError))
            return ENDED
        return OK

    async def _watch(self, stop: asyncio.Event) -> None:
        namespace = self.settings.namespace
        await kopf.operator(
            registry=self.watches.registry,
            settings=kopf_settings(),
            standalone=True,
            clusterwide=namespace is None,
            namespaces=[] if namespace is None else [namespace],
            stop_flag=stop,
        )

    def _start_workers(self) -> None:
        self.workers.start(self.settings.workers, self.settings.resync_seconds)

    async def _wait_for_crd(self) -> None:
        """Waits for the CRD, which helm creates together with this pod; kopf would wait silently.

        Raises CrdMissingError after a minute.
        """
        answer = ""
        for _ in range(CRD_SECONDS):
            try:
                await self.cluster.list(KIND, self.settings.namespace)
            except (ApiError, UnreachableError) as error:
                if isinstance(error, ApiError) and not (error.not_found or error.transient):
                    raise
                if str(error) != answer:
                    answer = str(error)
                    log.info("waiting for the CRD", answer=answer)
                await asyncio.sleep(1)
            else:
                return
        raise CrdMissingError(f"no {KIND} within {CRD_SECONDS} s ({answer}): kubectl apply --server-side -f crds/")

    def _refresh_metrics(self) -> None:
        self.metrics.queue_depth.set(len(self.queue))
        self.metrics.queue_oldest.set(self.queue.oldest_wait_seconds)
        self.metrics.queue_failing.set(self.queue.failures)


async def _first(work: object, stop: asyncio.Event) -> bool:
    """Returns True if the work finished before `stop` was set."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload] # any awaitable
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    task.result()
    return True


def stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def serve(settings: OperatorSettings) -> int:
    """Run until SIGTERM. Returns the exit code."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    cluster = await Cluster.connect()
    async with aiohttp.ClientSession() as session:
        try:
            return await Operator(settings, cluster, session).run(stop)
        except CrdMissingError as error:
            log.error("unusable", error=str(error))  # noqa: TRY400 - the message is all there is to say
            return UNUSABLE
        finally:
            await cluster.close()


def main() -> int:
    """Entry point."""
    settings = OperatorSettings.parse(sys.argv[1:])
    logs.configure(settings.log_format)
    return asyncio.run(serve(settings))


if __name__ == "__main__":
    sys.exit(main())
