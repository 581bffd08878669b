"""What happens to Deployments and pods during a run, seen by watches of the API server itself."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from flash_contracts.names import DEPLOYMENT_LABEL, REVISION_ANNOTATION
from flash_operator.runtime.api_connection import ApiConnection, ApiError, UnreachableError

DEPLOYMENTS, PODS = "/apis/apps/v1/deployments", "/api/v1/pods"
AGAIN_SECONDS = 0.3
WATCH_SECONDS = 120


class History:
    """Keeps what no moment may show, also if it is over when the run ends."""

    def __init__(self, api: ApiConnection) -> None:
        self._api = api
        self.templates: defaultdict[str, set[str]] = defaultdict(set)
        """Revisions of the pod template, by the Deployment's uid."""
        self.lost_pods: list[tuple[str, str, str]] = []
        """Namespace and deployment of each pod that was deleted, and its node."""

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self._follow(DEPLOYMENTS, self._on_deployment)),
            asyncio.create_task(self._follow(PODS, self._on_pod)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, path: str, take: Callable[[str, dict[str, Any]], None]) -> None:
        """From the state of now; a restart of the API server costs the events of its absence."""
        while True:
            try:
                async with aclosing(self._api.lines(path, {"watch": "true"}, WATCH_SECONDS)) as events:
                    async for event in events:
                        take(event["type"], event["object"])
            except (ApiError, UnreachableError):
                await asyncio.sleep(AGAIN_SECONDS)

    def _on_deployment(self, kind: str, raw: dict[str, Any]) -> None:
        if kind in ("ADDED", "MODIFIED"):
            revision = raw["spec"]["template"]["metadata"]["annotations"][REVISION_ANNOTATION]
            self.templates[raw["metadata"]["uid"]].add(revision)

    def _on_pod(self, kind: str, raw: dict[str, Any]) -> None:
        deployment = (raw.get("metadata", {}).get("labels") or {}).get(DEPLOYMENT_LABEL)
        if kind == "DELETED" and deployment:
            self.lost_pods.append((raw["metadata"]["namespace"], deployment, raw["spec"].get("nodeName", "")))
