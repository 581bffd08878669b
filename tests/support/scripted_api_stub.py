"""A stub of an API server whose watches follow a script, for what a real one cannot be made to do on demand.

It can lose a deletion (no DELETED event, then a 410 in the stream, as after a compaction during a disconnect), end
watches with errors, and count what it was asked. Everything else is tested on a real API server.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from flash_contracts.names import GROUP, KIND, PLURAL, VERSION

RESOURCES = {
    f"/apis/{GROUP}/{VERSION}": [(PLURAL, KIND, True)],
    "/api/v1": [
        ("pods", "Pod", True),
        ("services", "Service", True),
        ("configmaps", "ConfigMap", True),
        ("nodes", "Node", False),
        ("namespaces", "Namespace", False),
    ],
    "/apis/apps/v1": [("deployments", "Deployment", True), ("controllerrevisions", "ControllerRevision", True)],
    "/apis/batch/v1": [("jobs", "Job", True)],
    "/apis/policy/v1": [("poddisruptionbudgets", "PodDisruptionBudget", True)],
}


class ScriptedApiStub:
    """Objects by plural and key, and the watches that are open on them."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {
            plural: {} for resources in RESOURCES.values() for plural, _, _ in resources
        }
        self.asked: Counter[str] = Counter()
        self.selectors: dict[str, set[str]] = {}
        """Of labels, by plural: what was listed or watched with them."""
        self.writes: list[str] = []
        self.status = 200
        """What objects are answered with; discovery always works."""
        self.forbidden: set[str] = set()
        """Such as `watch pods` and `list pods`: answered with 403."""
        self.largest_page: Counter[str] = Counter()
        """Bytes of the largest list that was read to its end, by plural."""
        self.versions: list[str] = []
        """From which versions pods were watched."""
        self.answer_after = 0.0
        """Seconds that a GET of one object takes."""
        self._version = 100
        self._watches: dict[str, list[asyncio.Queue[dict[str, Any] | None]]] = {}

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        async with TestServer(app) as server:
            yield str(server.make_url(""))
            self.end_watches()

    def put(self, plural: str, raw: dict[str, Any]) -> None:
        """Make or change an object, and notify the watches."""
        key = self._key(raw)
        kind = "MODIFIED" if key in self.objects[plural] else "ADDED"
        self._version += 1
        raw["metadata"]["resourceVersion"] = str(self._version)
        self.objects[plural][key] = raw
        self.notify(plural, {"type": kind, "object": raw})

    def remove(self, plural: str, name: str) -> None:
        """Delete an object, and notify the watches."""
        self.notify(plural, {"type": "DELETED", "object": self.lose(plural, name)})

    def lose(self, plural: str, name: str) -> dict[str, Any]:
        """Delete an object in silence."""
        self._version += 1
        (key,) = (key for key in self.objects[plural] if key.endswith(f"/{name}"))
        return self.objects[plural].pop(key)

    def notify(self, plural: str, event: dict[str, Any]) -> None:
        for queue in self._watches.get(plural, []):
            queue.put_nowait(event)

    def gone(self, plural: str) -> None:
        """The 410 that a watch gets whose version was compacted away."""
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired"}
        self.notify(plural, {"type": "ERROR", "object": {**status, "message": "too old resource version"}})

    def end_watches(self) -> None:
        for queues in self._watches.values():
            for queue in queues:
                queue.put_nowait(None)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = f"/{request.match_info['path']}"
        if request.method != "GET":
            self.writes.append(f"{request.method} {path}")
            return web.json_response({"message": "this stub takes no writes"}, status=405)
        discovery = _discovery(path)
        if discovery is not None:
            return web.json_response(discovery)
        plural = path.rpartition("/")[2]
        verb = "watch" if request.query.get("watch") else "list"
        status = 403 if f"{verb} {plural}" in self.forbidden else self.status
        if status != 200:
            self.asked[f"{verb if status == 403 else 'list'} {plural}"] += 1
            return web.json_response({"kind": "Status", "message": f"scripted: cannot {verb} {plural}"}, status=status)
        return await self._read(request, path, plural)

    async def _read(self, request: web.Request, path: str, plural: str) -> web.StreamResponse:
        if plural not in self.objects:
            return await self._get(path)
        self.selectors.setdefault(plural, set()).add(request.query.get("labelSelector", ""))
        if request.query.get("watch"):
            return await self._watch(request, plural)
        return self._list(plural, int(request.query.get("limit", "0")), int(request.query.get("continue", "0")))

    async def _get(self, path: str) -> web.Response:
        """One object of a namespace: .../namespaces/NAMESPACE/PLURAL/NAME."""
        _, namespace, plural, name = path.rsplit("/", 3)
        self.asked[f"get {name}"] += 1
        await asyncio.sleep(self.answer_after)
        found = self.objects.get(plural, {}).get(f"{namespace}/{name}")
        if found is None:
            return web.json_response({"message": f"no {path}"}, status=404)
        return web.json_response(found)

    def _list(self, plural: str, limit: int, begin: int) -> web.Response:
        """A page; `begin` is where the page before it ended."""
        self.asked[f"list {plural}"] += not begin
        prefix, kind = next((p, k) for p, rs in RESOURCES.items() for pl, k, _ in rs if pl == plural)
        version = prefix.removeprefix("/apis/").removeprefix("/api/")
        items = list(self.objects[plural].values())
        end = begin + limit if limit and begin + limit < len(items) else len(items)
        metadata = {"resourceVersion": str(self._version), "continue": str(end) if end < len(items) else ""}
        page = {"kind": f"{kind}List", "apiVersion": version, "metadata": metadata, "items": items[begin:end]}
        text = json.dumps(page)
        if begin:
            self.largest_page[plural] = max(self.largest_page[plural], len(text))
        return web.Response(text=text, content_type="application/json")

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        self.asked[f"watch {plural}"] += 1
        if plural == "pods":
            self.versions.append(request.query.get("resourceVersion", ""))
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._watches.setdefault(plural, []).append(queue)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            while (event := await queue.get()) is not None:
                await response.write(event.get("raw") or json.dumps(event).encode() + b"\n")
                if event.get("type") == "ERROR":
                    break
        finally:
            self._watches[plural].remove(queue)
        return response

    @staticmethod
    def _key(raw: dict[str, Any]) -> str:
        return f"{raw['metadata'].get('namespace', '')}/{raw['metadata']['name']}"


def kubeconfig(address: str) -> str:
    """What leads a client to the stub at this address."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": address.rstrip("/")}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    return json.dumps(document)


def _discovery(path: str) -> dict[str, Any] | None:
    """What kopf asks before it watches."""
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [prefix.removeprefix("/apis/").split("/") for prefix in RESOURCES if prefix.startswith("/apis/")]
        return {"kind": "APIGroupList", "groups": [_group(name, version) for name, version in groups]}
    if path in RESOURCES:
        return {"kind": "APIResourceList", "groupVersion": path, "resources": [_resource(*r) for r in RESOURCES[path]]}
    return None


def _group(name: str, version: str) -> dict[str, Any]:
    preferred = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [preferred], "preferredVersion": preferred}


def _resource(plural: str, kind: str, namespaced: bool) -> dict[str, Any]:  # noqa: FBT001 - a row of the table
    verbs = ["get", "list", "watch", "patch"]
    return {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": namespaced, "verbs": verbs}
