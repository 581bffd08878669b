"""API server access: a dozen methods over the official async client, with raw dicts.

The client's typed models drop unknown fields and cost four times the CPU. Every write is a server-side apply of a whole
object with a field manager that names the part of the operator that wrote it.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from flash_contracts.names import (
    API_VERSION,
    FIELD_MANAGER,
    GROUP,
    KIND,
    NODES_FIELD_MANAGER,
    PLURAL,
    PODS_FIELD_MANAGER,
    STATUS_FIELD_MANAGER,
    VERSION,
)
from flash_operator.core.observed.scalers import HPA, SCALED_OBJECT
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import ObjectRef, PodAnnotation
from flash_operator.runtime.api_connection import (
    JSON,
    REQUEST_SECONDS,
    ApiConnection,
    ApiError,
    GarbledError,
    TooLargeError,
    UnreachableError,
)
from flash_operator.runtime.own_writes import OwnWrites

__all__ = ["ApiError", "Cluster", "FencedError", "GarbledError", "Listing", "UnreachableError"]

log = structlog.get_logger("flash.cluster")

PAGE = 500
"""Objects in one answer: a cluster may have thousands of nodes and pods."""
PAGE_BYTES = 16 << 20
"""A longer answer is requested again in smaller pages: an object may have a MiB, and tenants may create thousands."""
WATCH_SECONDS = 300
"""Watches are restarted after that, so that a dead connection is noticed."""

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
FORCED = {"fieldManager": FIELD_MANAGER, "force": "true"}
"""Query of a server-side apply. The operator owns its children, so it takes over fields that others claim."""

NO_VERSION = "1"
"""No object has this resourceVersion: an empty etcd has it. An apply with it creates the object, or is refused."""

NOT_DECLARED = "field not declared in schema"
CRD_REMEDY = "kubectl apply --server-side -f crds/, or helm upgrade with crds.install=true"

ALREADY_EXISTS = 409
INVALID = 422
TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class Resource:
    """The API path of a kind."""

    prefix: str
    plural: str
    namespaced: bool = True


RESOURCES = {
    KIND: Resource(f"/apis/{GROUP}/{VERSION}", PLURAL),
    "Deployment": Resource("/apis/apps/v1", "deployments"),
    "Service": Resource("/api/v1", "services"),
    "ConfigMap": Resource("/api/v1", "configmaps"),
    "PodDisruptionBudget": Resource("/apis/policy/v1", "poddisruptionbudgets"),
    "Pod": Resource("/api/v1", "pods"),
    "Node": Resource("/api/v1", "nodes", namespaced=False),
    "Event": Resource("/apis/events.k8s.io/v1", "events"),
    "Job": Resource("/apis/batch/v1", "jobs"),
    "ControllerRevision": Resource("/apis/apps/v1", "controllerrevisions"),
    HPA: Resource("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    SCALED_OBJECT: Resource("/apis/keda.sh/v1alpha1", "scaledobjects"),
    "EndpointSlice": Resource("/apis/discovery.k8s.io/v1", "endpointslices"),
    "Lease": Resource("/apis/coordination.k8s.io/v1", "leases"),
}


@dataclass(frozen=True)
class Listing:
    """A list, and the version of the storage that it shows."""

    items: list[RawObject]
    version: str = ""


class FencedError(UnreachableError):
    """A write was not sent: another operator may lead by now."""


class Cluster:
    """One API server. Close it when done."""

    def __init__(self, connection: ApiConnection) -> None:
        self._connection = connection
        self.seconds_to_write: Callable[[], float] = lambda: REQUEST_SECONDS
        """How long writes are allowed from now on: until the lease's end, once this process leads by one."""
        self.answered: Callable[[RawObject], object] = lambda _: None
        """Is called with the object that a write was answered with."""
        self.own_writes = OwnWrites()
        self.writes = 0
        """Write requests, except for Leases and dry runs."""
        self.reads = 0
        """All other requests, except for Leases and watches."""

    @classmethod
    async def connect(cls) -> "Cluster":
        """Connects with the pod's service account, or with KUBECONFIG outside a cluster."""
        return cls(await ApiConnection.connect())

    async def close(self) -> None:
        await self._connection.close()

    def count_with(self, requested: Callable[[str, str, str], object]) -> None:
        """Calls it from now on with verb, resource and code of each request that has ended."""
        self._connection.requested = requested

    async def get(self, kind: str, name: str, namespace: str | None = None) -> RawObject | None:
        """The object, or None if it does not exist."""
        try:
            self.reads += kind != "Lease"
            return await self._connection.request("GET", _path(kind, namespace, name))
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        selector: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[RawObject]:
        """All objects with these labels and fields."""
        return (await self.listing(kind, namespace, selector=selector, fields=fields)).items

    async def listing(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        selector: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        keep: Callable[[RawObject], bool] = lambda _: True,
    ) -> Listing:
        """The same with the version, page by page. Adds apiVersion and kind, which list items lack.

        Only items that are to be kept take memory for longer than their page. Raises ApiError with status 410 if the
        list took so long that the server has forgotten where it began.
        """
        wanted = {"labelSelector": _selector(selector), "fieldSelector": _selector(fields), "limit": str(PAGE)}
        query = {name: text for name, text in wanted.items() if text}
        items: list[RawObject] = []
        while True:
            found = await self._page(_path(kind, namespace), query)
            named = ({"apiVersion": found["apiVersion"], "kind": kind, **item} for item in found["items"])
            items += filter(keep, named)
            metadata = found.get("metadata") or {}
            if not metadata.get("continue"):
                return Listing(items, str(metadata.get("resourceVersion", "")))
            query["continue"] = metadata["continue"]

    async def _page(self, path: str, query: dict[str, str]) -> RawObject:
        """One page; a smaller one if it is too large, and so are those after it."""
        while True:
            self.reads += 1
            limit = int(query["limit"])
            try:
                most_bytes = PAGE_BYTES if limit > 1 else None
                return await self._connection.request("GET", path, query, most_bytes=most_bytes)
            except TooLargeError:
                query["limit"] = str(max(limit // 8, 1))
                log.warning("a page of a list is too large", path=path, limit=query["limit"])

    def watch(
        self, kind: str, namespace: str | None, version: str, *, selector: Mapping[str, str] | None = None
    ) -> AsyncGenerator[RawObject, None]:
        """The events after a version, until the server ends the watch. Raises ApiError, UnreachableError."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
            "labelSelector": _selector(selector),
        }
        return self._connection.lines(_path(kind, namespace), query, seconds=WATCH_SECONDS + 30)

    async def apply(self, desired: RawObject) -> RawObject:
        """Applies the object, also over another one of its name."""
        return await self._write("PATCH", path_of(desired), desired, APPLY, FORCED)

    async def create(self, desired: RawObject) -> RawObject:
        """Applies an object that must not exist yet; raises a conflict if it does.

        Not by a POST: the fields that it sets have an owner of their own, which keeps what a later apply gives up.
        """
        return await self.apply(_with_metadata(desired, resourceVersion=NO_VERSION))

    async def update(self, desired: RawObject, uid: str) -> RawObject:
        """Applies an object that exists; raises a conflict if it is gone, or another has its name."""
        return await self.apply(_with_metadata(desired, uid=uid))

    async def create_or_update(self, desired: RawObject, known: RawObject | None) -> RawObject:
        """Applies an object that was read as `known`, None if it was missing. Raises a conflict if that has changed."""
        if known is None:
            return await self.create(desired)
        return await self.update(desired, known["metadata"]["uid"])

    async def dry_run(self, desired: RawObject) -> RawObject | None:
        """The object as the API server would store it, or None if it would refuse it. Writes nothing."""
        try:
            self.reads += 1
            return await self._connection.request(
                "PATCH", path_of(desired), {**FORCED, "dryRun": "All"}, desired, APPLY
            )
        except ApiError as error:
            if error.refused:
                return None
            raise

    async def objection(self, raw: RawObject) -> str:
        """Why the API server would refuse this stored object if it were new; empty if it would not. Writes nothing.

        A dry run, and of a name that exists: a server that finds nothing wrong answers with a conflict.
        """
        metadata = {"name": raw["metadata"]["name"], "namespace": raw["metadata"]["namespace"]}
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": raw["spec"]}
        try:
            self.reads += 1
            await self._connection.request("POST", _path(KIND, metadata["namespace"]), {"dryRun": "All"}, body, JSON)
        except ApiError as error:
            if error.status == ALREADY_EXISTS:
                return ""
            if error.status == INVALID:
                return str(error).partition(" is invalid: ")[2] or str(error)
            raise
        return ""

    async def schema_version(self) -> str | None:
        """Names the schema that the API server has of our CRD now; None while it has none.

        The index of its OpenAPI documents, with a hash of each: every account may read that (system:discovery).
        """
        self.reads += 1
        index = await self._connection.request("GET", "/openapi/v3", most_bytes=PAGE_BYTES)
        document = (index.get("paths") or {}).get(f"apis/{API_VERSION}") or {}
        address: str | None = document.get("serverRelativeURL")
        return address

    async def apply_status(self, namespace: str, name: str, status: RawObject) -> RawObject:
        """Applies the whole status of a DeepSeekFlashDeployment.

        A CRD that is older than this operator does not declare all of it. An apply of that is refused; a replacement is
        stored without those fields.
        """
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name, "namespace": namespace}}
        path = f"{_path(KIND, namespace, name)}/status"
        query = {"fieldManager": STATUS_FIELD_MANAGER, "force": "true"}
        try:
            return await self._write("PATCH", path, {**body, "status": status}, APPLY, query)
        except ApiError as error:
            if NOT_DECLARED not in str(error):
                raise
            log.warning("the CRD is older than this operator", remedy=CRD_REMEDY, error=str(error))
        replacement = [{"op": "add", "path": "/status", "value": status}]
        return await self._write("PATCH", path, replacement, JSON_PATCH, {"fieldManager": STATUS_FIELD_MANAGER})

    async def annotate(self, annotation: PodAnnotation) -> RawObject:
        """Annotates one pod; raises a conflict if a pod of this name has another uid, or has changed."""
        metadata: RawObject = {"uid": annotation.uid, "annotations": annotation.annotations}
        if annotation.resource_version is not None:
            metadata["resourceVersion"] = annotation.resource_version
        body = {"metadata": metadata}
        path = _path("Pod", annotation.namespace, annotation.name)
        return await self._write("PATCH", path, body, MERGE, {"fieldManager": PODS_FIELD_MANAGER})

    async def patch_node(self, name: str, patch: RawObject) -> RawObject:
        """Merges labels and annotations into a node; None removes one."""
        return await self._write(
            "PATCH", _path("Node", None, name), patch, MERGE, {"fieldManager": NODES_FIELD_MANAGER}
        )

    async def delete(self, ref: ObjectRef) -> None:
        """Deletes an object, if it still exists and has the uid that the reference may give."""
        options: RawObject = {"propagationPolicy": "Background"}
        if ref.uid is not None:
            options["preconditions"] = {"uid": ref.uid}
        try:
            await self._write("DELETE", _path(ref.kind, ref.namespace, ref.name), options, JSON, {})
        except ApiError as error:
            if not (error.not_found or (ref.uid and error.conflict)):
                raise

    async def evict(self, eviction: ObjectRef) -> bool:
        """Evicts one pod; False if its disruption budget allows none now, or a pod of this name has another uid."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": eviction.name, "namespace": eviction.namespace},
            "deleteOptions": {"preconditions": {"uid": eviction.uid}},
        }
        path = f"{_path('Pod', eviction.namespace, eviction.name)}/eviction"
        try:
            await self._write("POST", path, body, JSON, {})
        except ApiError as error:
            if error.status == TOO_MANY_REQUESTS or error.conflict or error.not_found:
                return False
            raise
        return True

    async def record_event(self, event: RawObject) -> None:
        """Creates an event. If it exists, increases its count, the only mutable part of an event."""
        namespace, name = event["metadata"]["namespace"], event["metadata"]["name"]
        query = {"fieldManager": FIELD_MANAGER}
        try:
            await self._write("POST", _path("Event", namespace), event, JSON, query)
        except ApiError as error:
            if error.status != ALREADY_EXISTS:
                raise
            earlier = await self.get("Event", name, namespace) or {}
            count = (earlier.get("series") or {}).get("count", 1) + 1
            series = {"series": {"count": count, "lastObservedTime": event["eventTime"]}}
            await self._write("PATCH", _path("Event", namespace, name), series, MERGE, query)

    async def create_lease(self, lease: RawObject) -> RawObject:
        """Raises ApiError with `conflict` if another candidate was first."""
        return await self._connection.request("POST", _path("Lease", lease["metadata"]["namespace"]), {}, lease, JSON)

    async def replace_lease(self, lease: RawObject) -> RawObject:
        """Raises ApiError with `conflict` if the lease changed since it was read."""
        metadata = lease["metadata"]
        path = _path("Lease", metadata["namespace"], metadata["name"])
        return await self._connection.request("PUT", path, {}, lease, JSON)

    async def _write(
        self, method: str, path: str, body: RawObject | Sequence[RawObject], content_type: str, query: Mapping[str, str]
    ) -> RawObject:
        seconds = min(self.seconds_to_write(), REQUEST_SECONDS)
        if seconds <= 0:
            raise FencedError(f"{method} {path}: not sent, because the lease may have ended")
        self.writes += 1
        with self.own_writes.to(path.removesuffix("/status")) as write:
            answer = await self._connection.request(method, path, query, body, content_type, seconds)
            if (answer.get("metadata") or {}).get("name"):
                write.answer(answer)
                self.answered(answer)
        return answer


def path_of(raw: RawObject) -> str:
    """Where the API has an object of a namespace."""
    return _path(raw["kind"], raw["metadata"]["namespace"], raw["metadata"]["name"])


def _with_metadata(desired: RawObject, **more: str) -> RawObject:
    return {**desired, "metadata": {**desired["metadata"], **more}}


def _path(kind: str, namespace: str | None = None, name: str | None = None) -> str:
    resource = RESOURCES[kind]
    within = f"/namespaces/{namespace}" if resource.namespaced and namespace else ""
    return f"{resource.prefix}{within}/{resource.plural}{'/' + name if name else ''}"


def _selector(wanted: Mapping[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in (wanted or {}).items())
