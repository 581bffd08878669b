"""Reconciles one DeepSeekFlashDeployment: observe, plan, apply, report."""

import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from flash_operator.core.observed.snapshot import Observed
from flash_operator.core.p2p_test.planner import verdict_event
from flash_operator.core.plan import Plan, plan, sooner
from flash_operator.core.status.spec_condition import unreadable_status
from flash_operator.core.status.status import timestamp
from flash_operator.runtime.activator_routes import RouteBoard
from flash_operator.runtime.children import OTHER_OBJECT, ChildWriter, NameTakenError, OutdatedError
from flash_operator.runtime.cluster import ApiError, Cluster
from flash_operator.runtime.demand_board import DemandBoard
from flash_operator.runtime.events import EventRecorder, flash_event, node_event
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.observer import Observer, UnreadableSpecError, utc_now

log = structlog.get_logger("flash.reconciler")

NAME_TAKEN_SECONDS = 10.0
"""No watch reports the deletion of an object that is not ours."""


AFTER_WRITES_SECONDS = 1.0
"""The watch does not report our own writes as news, and what they changed may ask for more."""


class Reconciler:
    """Observes a deployment, plans, and carries out the plan."""

    def __init__(
        self,
        cluster: Cluster,
        observer: Observer,
        instance: str,
        clock: Callable[[], float] = time.monotonic,
        routes: RouteBoard | None = None,
    ) -> None:
        """`routes` gets what activators need to know."""
        self._cluster = cluster
        self._observer = observer
        self._children = ChildWriter(cluster, observer.answers)
        self._events = EventRecorder(cluster)
        self._instance = instance
        self._clock = clock
        self._reported_at: dict[FlashKey, float] = {}
        """When a status was last written, or when a deployment without one was first seen."""
        self.demand = DemandBoard(observer.gates.loads, observer.waiting)
        self.routes = RouteBoard() if routes is None else routes

    async def reconcile(self, key: FlashKey) -> float | None:
        """Returns the seconds until the next reconcile, or None if only an event is worth one."""
        try:
            return await self._carry_out(key)
        except NameTakenError as error:
            taken = replace(error.observed, name_taken=str(error))
            await self._report(taken, plan(taken))
            return NAME_TAKEN_SECONDS
        except UnreadableSpecError as error:
            await self._report_unreadable(key, error)
            return None

    async def _carry_out(self, key: FlashKey) -> float | None:
        """Raises NameTakenError."""
        observed, wanted = await self._prepare(key)
        if observed is not None and _creates_deployment(observed, wanted):
            # The new objects are in memory now, so the first status covers them, and no second one is needed.
            observed, wanted = await self._prepare(key)
        if observed is None:
            self._reported_at.pop(key, None)
            self.demand.forget(key)
            self.routes.forget(key)
            return None
        scaled = await self._observer.scalers.carry_out(key, wanted.scaler)
        for ref in wanted.delete:
            await self._cluster.delete(ref)
        await self._evict_pods(wanted)
        await self._label_nodes(observed, wanted)
        reported_again = await self._report(observed, wanted)
        written = wanted.apply or wanted.annotate or wanted.delete or scaled
        changed = AFTER_WRITES_SECONDS if written else None
        return sooner(changed, reported_again, wanted.requeue_after)

    async def _prepare(self, key: FlashKey) -> tuple[Observed | None, Plan]:
        """Plans, applies the children and annotates the pods. Raises ApiError, NameTakenError."""
        observed, wanted = await self._plan(key)
        try:
            await self._write_objects(key, observed, wanted)
        except OutdatedError:
            # Another operator or a former process wrote it, and it is not in memory yet.
            observed, wanted = await self._plan(key, live=True)
            await self._write_objects(key, observed, wanted, live=True)
        return observed, wanted

    async def _write_objects(
        self, key: FlashKey, observed: Observed | None, wanted: Plan, *, live: bool = False
    ) -> None:
        if observed is None:
            return
        if wanted.demand_basis is not None:
            self.demand.put(key, wanted.demand_basis)
        self.routes.put(key, wanted.route)
        self._observer.gates.poll(key, wanted.poll_gates)
        errors = await self._children.apply(observed, wanted.apply, live=live)
        # Whatever was refused, pods that wait for their flags get them.
        await self._annotate_pods(wanted)
        for error in errors:
            if isinstance(error, OTHER_OBJECT):
                raise error
        if errors:
            await self._report_refusals(observed, errors)
            raise errors[0]

    async def _plan(self, key: FlashKey, *, live: bool = False) -> tuple[Observed | None, Plan]:
        """The plan, made from memory. What cannot be undone is planned anew from what the API server says now."""
        observed = await self._observer.observe(key, live=live)
        wanted = plan(observed) if observed else Plan()
        if live or not wanted.is_irreversible:
            return observed, wanted
        return await self._plan(key, live=True)

    async def _report_refusals(self, observed: Observed, refusals: list[Exception]) -> None:
        """Reports rejected children in status, each in the API server's words, because only people can help.

        A server that is overloaded or away is not asked to store that as well.
        """
        reported = [error for error in refusals if isinstance(error, ApiError) and not error.overloaded]
        if reported:
            refused = replace(observed, refusal="; ".join(map(str, reported)))
            await self._report(refused, plan(refused))

    async def _report_unreadable(self, key: FlashKey, error: UnreadableSpecError) -> None:
        """Nothing else is done: what the spec asks for is not known."""
        live, generation = error.raw.get("status") or {}, error.raw["metadata"].get("generation", 0)
        status = unreadable_status(live, generation, str(error), timestamp(utc_now()))
        log.warning("the spec cannot be read", key=str(key), error=str(error))
        if status != live:
            await self._cluster.apply_status(key.namespace, key.name, status)

    async def _evict_pods(self, wanted: Plan) -> None:
        for eviction in wanted.evict:
            evicted = await self._cluster.evict(eviction)
            log.info(
                "evicting a pod" if evicted else "eviction refused", namespace=eviction.namespace, pod=eviction.name
            )

    async def _annotate_pods(self, wanted: Plan) -> None:
        """Skips pods that were deleted or replaced since they were observed."""
        for annotation in wanted.annotate:
            try:
                await self._cluster.annotate(annotation)
            except ApiError as error:
                if not (error.not_found or error.conflict):
                    raise
                log.info("pod was deleted", namespace=annotation.namespace, pod=annotation.name)

    async def _label_nodes(self, observed: Observed, wanted: Plan) -> None:
        """Runs before the status is written, which records that it was done. Skips deleted nodes."""
        for verdict in wanted.verdicts:
            try:
                await self._cluster.patch_node(verdict.node, verdict.patch())
            except ApiError as error:
                if not error.not_found:
                    raise
                log.info("node was deleted", node=verdict.node)
                continue
            event = verdict_event(verdict)
            written = node_event(observed.nodes[verdict.node], event, observed.now, self._instance)
            await self._events.emit(written, event.message)

    async def _report(self, observed: Observed, wanted: Plan) -> float | None:
        """Writes the status with its events. Returns the seconds to wait if that is too early."""
        flash, now = observed.flash, self._clock()
        key = FlashKey(flash.namespace, flash.name)
        if wanted.status is not None:
            # Of a deployment without a status, the time of the first look counts.
            last = self._reported_at.setdefault(key, float("-inf") if observed.live_status else now)
            early = last + wanted.status_interval - now
            if early > 0:
                return early
            try:
                await self._cluster.apply_status(flash.namespace, flash.name, wanted.status)
            except ApiError as error:
                if not error.not_found:
                    raise
                log.info("deployment was deleted", namespace=flash.namespace, name=flash.name)
                return None
            self._reported_at[key] = now
        for event_spec in wanted.events:
            event = flash_event(flash, event_spec, observed.now, self._instance)
            await self._events.emit(event, event_spec.message)
        return None


def _creates_deployment(observed: Observed, wanted: Plan) -> bool:
    made = any(child["kind"] == "Deployment" for child in wanted.apply)
    return made and ("Deployment", observed.flash.name) not in observed.children
