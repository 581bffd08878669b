"""An API server in memory for the acting commands, with the operator's own plans behind it."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus

from builders import a_flash_object
from flash_contracts.names import DEPLOYMENT_LABEL, KIND
from flash_contracts.orders import DeploymentOrders
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flashctl.cluster import Cluster as ApiServer
from flashctl.errors import CommandError, NotFoundError, RefusedError
from planned_snapshot import Cluster as Planned


class OperatedCluster(ApiServer):
    """Has one deployment, which the operator looks at after each change, and pods that tests put there."""

    def __init__(self, planned: Planned | None = None) -> None:
        self.namespace = "team"
        self.planned = planned
        self.flash = a_flash_object()
        self.flash["metadata"]["annotations"] = {}
        self.objects: dict[tuple[str, str], RawObject] = {}
        self.patches: list[tuple[str, RawObject]] = []
        self.deleted: list[tuple[str, str]] = []
        self.refused: dict[str, CommandError] = {}
        """By kind: why it cannot be read."""
        self.operator_runs = planned is not None
        self.before_patch: Callable[[], None] = lambda: None
        self.dry_run: Callable[[RawObject], RawObject] = lambda body: {
            **body, "metadata": {"uid": "uid-of-flash", "namespace": "team", **body["metadata"]}}  # fmt: skip
        self._version = 1

    def status(self, **status: object) -> None:
        """Where no operator runs, what one has written."""
        self.flash["status"] = status

    def put(self, raw: RawObject) -> None:
        raw["metadata"]["resourceVersion"] = self._next()
        self.objects[raw["kind"], raw["metadata"]["name"]] = raw

    def replica(self, pod: RawObject, deployment: str = "flash") -> None:
        pod["metadata"]["labels"] = {DEPLOYMENT_LABEL: deployment}
        pod["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "flash-1", "uid": "uid-of-rs"}]
        self.put(pod)

    def get(self, kind: str, name: str, namespace: str | None = None) -> RawObject:
        found = self.find(kind, name, namespace)
        if found is None:
            raise NotFoundError(f"there is no {kind} {name}")
        return found

    def find(self, kind: str, name: str, namespace: str | None = None) -> RawObject | None:
        assert namespace in (None, "team")
        if kind in self.refused:
            raise self.refused[kind]
        if kind == KIND:
            return copy.deepcopy(self._flash()) if name == "flash" else None
        if kind == "ControllerRevision" and self.planned:
            return self.planned.observed.children.get((kind, name))
        return copy.deepcopy(self.objects.get((kind, name)))

    def listed(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        everywhere: bool = False,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[RawObject]:
        assert not everywhere
        assert fields is None
        assert namespace in (None, "team")
        found = [raw for (known, _), raw in self.objects.items() if known == kind]
        wanted = (labels or {}).items()
        return copy.deepcopy([raw for raw in found if wanted <= (raw["metadata"].get("labels") or {}).items()])

    def patch(self, kind: str, name: str, body: RawObject, namespace: str | None = None) -> RawObject:
        assert namespace in (None, "team")
        hook, self.before_patch = self.before_patch, lambda: None
        hook()
        live = self._flash() if kind == KIND else self.objects[kind, name]
        if body["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"]:
            raise RefusedError("the object has been modified", HTTPStatus.CONFLICT)
        self.patches.append((kind, body))
        merged = _merged(live, {**body, "metadata": {**body["metadata"], "resourceVersion": self._next()}})
        if kind == KIND:
            self.flash = merged
            self._reconcile()
        else:
            self.objects[kind, name] = merged
        return copy.deepcopy(merged)

    def dry_apply(self, body: RawObject, namespace: str | None = None) -> RawObject:
        assert namespace in (None, "team")
        return self.dry_run(copy.deepcopy(body))

    def delete(self, kind: str, name: str, namespace: str | None = None) -> RawObject:
        assert namespace in (None, "team")
        self.deleted.append((kind, name))
        return {}

    def touch(self) -> None:
        """Another writer changes the deployment."""
        self.flash["metadata"]["resourceVersion"] = self._next()

    def _flash(self) -> RawObject:
        self.flash["metadata"].setdefault("resourceVersion", self._next())
        if self.planned:
            self.flash["status"] = self.planned.observed.live_status
            self.flash["spec"] = {
                **self.planned.observed.flash.spec.model_dump(by_alias=True, mode="json", exclude_none=True),
                **self.flash["spec"],
            }
        return self.flash

    def _reconcile(self) -> None:
        if self.planned is None or not self.operator_runs:
            return
        flash = FlashDeployment.from_object(self.flash)
        orders = DeploymentOrders.of(self.flash["metadata"]["annotations"])
        self.planned.observed = replace(
            self.planned.observed, flash=flash.model_copy(update={"orders": orders, "generation": 1})
        )
        self.planned.reconcile()

    def _next(self) -> str:
        self._version += 1
        return str(self._version)


def _merged(live: RawObject, patch: RawObject) -> RawObject:
    """A JSON merge patch (RFC 7386)."""
    result = dict(live)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _merged(result.get(key) or {}, value)
        else:
            result[key] = value
    return result
