"""Reconciles one node: starts the p2p test of untested links, and labels the node with the verdict."""

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog

from flash_contracts.names import P2P_TEST_LABEL
from flash_contracts.node_facts import NodeFacts
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.p2p_test.job import P2pTestSettings, p2p_test_name
from flash_operator.core.p2p_test.planner import NodeObserved, NodePlan, plan_node, reason_not_to_test
from flash_operator.core.plan import ObjectRef
from flash_operator.runtime.cluster import ApiError, Cluster
from flash_operator.runtime.events import EventRecorder, node_event
from flash_operator.runtime.keys import NodeKey
from flash_operator.runtime.observer import utc_now

log = structlog.get_logger("flash.nodes")


class NodeReconciler:
    """Keeps the verdict on a node's links up to date."""

    def __init__(
        self,
        cluster: Cluster,
        settings: P2pTestSettings | None,
        instance: str,
        *,
        namespace: str | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`namespace` is the one that the operator watches and may look into; None for all."""
        self._cluster = cluster
        self._settings = settings
        self._events = EventRecorder(cluster)
        self._instance = instance
        self._watched = namespace
        self._clock = clock

    async def reconcile(self, key: NodeKey) -> float | None:
        """Returns the seconds until the next reconcile, or None if only an event is worth one."""
        if self._settings is None:
            return None
        observed = await self._observe(key.node, self._settings)
        wanted = plan_node(observed)
        if wanted.create:
            log.info("starting a p2p test", node=key.node, job=wanted.create["metadata"]["name"])
            await self._cluster.create(wanted.create)
        # Label first, then delete the Job: an operator that dies in between reads the same report again.
        await self._label_node(observed, wanted)
        if wanted.delete:
            metadata = wanted.delete["metadata"]
            reason = "finished or preempted" if observed.node else "node was deleted"
            log.info("deleting the p2p test Job", node=key.node, job=metadata["name"], reason=reason)
            await self._cluster.delete(ObjectRef("Job", metadata["namespace"], metadata["name"], metadata["uid"]))
        return wanted.requeue_after

    async def _observe(self, name: str, settings: P2pTestSettings) -> NodeObserved:
        node, job = await asyncio.gather(
            self._cluster.get("Node", name),
            self._cluster.get("Job", p2p_test_name(name), settings.namespace),
        )
        observed = NodeObserved(name=name, node=node, settings=settings, now=self._clock(), job=job)
        if node is None or (job is None and reason_not_to_test(NodeFacts.from_node(node))):
            return observed
        return await self._with_pods(observed)

    async def _with_pods(self, observed: NodeObserved) -> NodeObserved:
        """Adds the pods. Three lists, needed only if a test runs or is due.

        Pods in namespaces that are not watched are unknown. The scheduler knows them: the test has the lowest priority.
        """
        namespace, name = observed.settings.namespace, observed.name
        ours, bound, waiting = await asyncio.gather(
            self._cluster.list("Pod", namespace, selector={P2P_TEST_LABEL: p2p_test_name(name)}),
            self._cluster.list("Pod", self._watched, fields={"spec.nodeName": name}),
            self._cluster.list("Pod", self._watched, fields={"spec.nodeName": "", "status.phase": "Pending"}),
        )
        return NodeObserved(
            name=name,
            node=observed.node,
            settings=observed.settings,
            now=observed.now,
            job=observed.job,
            job_pods=tuple(pod for pod in ours if _is_of(pod, observed.job)),
            pods=(*bound, *waiting),
        )

    async def _label_node(self, observed: NodeObserved, wanted: NodePlan) -> None:
        if observed.node is None:
            return
        try:
            if wanted.patch:
                await self._cluster.patch_node(observed.name, wanted.patch)
        except ApiError as error:
            if not error.not_found:
                raise
            log.info("node was deleted", node=observed.name)
            return
        for event_spec in wanted.events:
            event = node_event(observed.node, event_spec, observed.now, self._instance)
            await self._events.emit(event, event_spec.message)


def _is_of(pod: RawObject, job: RawObject | None) -> bool:
    """Compares uids, because successive test Jobs of a node share name and labels."""
    owners = pod["metadata"].get("ownerReferences", [])
    return job is not None and any(owner["uid"] == job["metadata"]["uid"] for owner in owners)
