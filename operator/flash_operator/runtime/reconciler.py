"""Reconciles one DeepSeekFlashDeployment: observe, plan, apply, report."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from flash_operator.core.observed.kube import is_owned_by
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.p2p_test.planner import verdict_event
from flash_operator.core.plan import Plan, plan
from flash_operator.runtime.cluster import ApiError, Cluster
from flash_operator.runtime.events import EventRecorder, flash_event, node_event
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.observer import Observer

log = structlog.get_logger("flash.reconciler")

NAME_TAKEN_SECONDS = 10.0
"""No watch reports the deletion of an object that is not ours."""


AFTER_WRITES_SECONDS = 1.0
"""The watch does not report our own writes as news, and what they changed may ask for more."""


class Reconciler:
    """Observes a deployment, plans, and carries out the plan."""

    def __init__(
        self, cluster: Cluster, observer: Observer, instance: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster = cluster
        self._observer = observer
        self._answers = observer.answers
        self._events = EventRecorder(cluster)
        self._instance = instance
        self._clock = clock
        self._reported_at: dict[FlashKey, float] = {}
        """When a status was last written."""

    async def reconcile(self, key: FlashKey) -> float | None:
        """Returns the seconds until the next reconcile, or None if only an event is worth one."""
        observed, wanted = await self._plan(key)
        namesakes = await self._namesakes(observed, wanted) if observed else []
        if observed and any(is_owned_by(live, observed.flash.uid) for live in namesakes):
            # Ours, and not in memory yet.
            observed, wanted = await self._plan(key, live=True)
        if observed is None:
            self._reported_at.pop(key, None)
            return None
        self._observer.gates.poll(key, wanted.poll_gates)
        foreign = _foreign_object(observed, wanted, namesakes)
        if foreign is not None:
            taken = replace(observed, name_taken=_description_of(foreign))
            await self._report(taken, plan(taken))
            return NAME_TAKEN_SECONDS
        refusals = await self._apply(observed, wanted)
        # Whatever was refused, pods that wait for their flags get them.
        await self._annotate_pods(wanted)
        if refusals:
            await self._report_refusals(observed, refusals)
            raise refusals[0]
        for ref in wanted.delete:
            await self._cluster.delete(ref)
        await self._evict_pods(wanted)
        await self._label_nodes(observed, wanted)
        reported_again = await self._report(observed, wanted)
        changed = AFTER_WRITES_SECONDS if wanted.apply or wanted.annotate or wanted.delete else None
        return min((due for due in (changed, reported_again, wanted.requeue_after) if due is not None), default=None)

    async def _plan(self, key: FlashKey, *, live: bool = False) -> tuple[Observed | None, Plan]:
        """The plan, made from memory. What cannot be undone is planned anew from what the API server says now."""
        observed = await self._observer.observe(key, live=live)
        wanted = plan(observed) if observed else Plan()
        if live or not wanted.is_irreversible:
            return observed, wanted
        return await self._plan(key, live=True)

    async def _apply(self, observed: Observed, wanted: Plan) -> list[ApiError]:
        """Applies every child, also where others are refused; what pods need first. Returns the refusals.

        Raises UnreachableError, once all have ended: no write is on its way when the next reconcile begins.
        """
        before = [child for child in wanted.apply if child["kind"] != "Deployment"]
        after = [child for child in wanted.apply if child["kind"] == "Deployment"]
        refusals: list[ApiError] = []
        for children in (before, after):
            applying = (self._apply_child(observed, child) for child in children)
            errors = [error for error in await asyncio.gather(*applying, return_exceptions=True) if error]
            refusals += [error for error in errors if isinstance(error, ApiError)]
            for error in errors:
                if not isinstance(error, ApiError):
                    raise error
        return refusals

    async def _apply_child(self, observed: Observed, child: RawObject) -> None:
        try:
            self._answers.remember(observed.flash, child, await self._cluster.apply(child))
        except ApiError as error:
            log.warning("refused", namespace=observed.flash.namespace, child=_name_of(child), error=str(error))
            raise

    async def _namesakes(self, observed: Observed, wanted: Plan) -> list[RawObject]:
        """Objects with the names of children that are to be made."""
        refs = [(child["kind"], child["metadata"]["name"]) for child in wanted.apply]
        unknown = [ref for ref in refs if ref not in observed.children]
        found = await asyncio.gather(*(self._named(*ref, observed.flash.namespace) for ref in unknown))
        return [live for named in found for live in named]

    async def _named(self, kind: str, name: str, namespace: str) -> list[RawObject]:
        """By a list of one, because the operator's role lets it list children and not get them."""
        return await self._cluster.list(kind, namespace, fields={"metadata.name": name})

    async def _report_refusals(self, observed: Observed, refusals: list[ApiError]) -> None:
        """Reports rejected children in status, each in the API server's words, because only people can help.

        A server that is overloaded or away is not asked to store that as well.
        """
        reported = [error for error in refusals if not error.overloaded]
        if reported:
            refused = replace(observed, refusal="; ".join(map(str, reported)))
            await self._report(refused, plan(refused))

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
            await self._events.emit(node_event(observed.nodes[verdict.node], event, observed.now, self._instance))

    async def _report(self, observed: Observed, wanted: Plan) -> float | None:
        """Writes the status with its events. Returns the seconds to wait if that is too early."""
        flash, now = observed.flash, self._clock()
        key = FlashKey(flash.namespace, flash.name)
        if wanted.status is not None:
            early = self._reported_at.get(key, float("-inf")) + wanted.status_interval - now
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
            await self._events.emit(flash_event(flash, event_spec, observed.now, self._instance))
        return None


def _foreign_object(observed: Observed, wanted: Plan, namesakes: list[RawObject]) -> RawObject | None:
    """An object with the name of a child to apply that this deployment does not own.

    Applying would take over its fields, and deleting the deployment would delete it.
    """
    refs = [(child["kind"], child["metadata"]["name"]) for child in wanted.apply]
    known = [observed.children[ref] for ref in refs if ref in observed.children]
    return next((live for live in (*known, *namesakes) if not is_owned_by(live, observed.flash.uid)), None)


def _name_of(child: RawObject) -> str:
    return f"{child['kind']} {child['metadata']['name']}"


def _description_of(foreign: RawObject) -> str:
    kind, name = foreign["kind"], foreign["metadata"]["name"]
    owners = foreign["metadata"].get("ownerReferences") or []
    owner = f"is owned by {owners[0]['kind']} {owners[0]['name']}" if owners else "has no owner"
    return f"{kind} {name} exists already and {owner}, so nothing is written: delete it, or rename this deployment"
