"""A stub of a Node on an API server, for conflicts and refusals that a real one produces only by chance."""

from dataclasses import dataclass, field
from typing import Any

from flash_node.labeller.cluster import ClusterError, ConflictError
from flash_node.labels import NodeState


@dataclass
class ScriptedNode:
    """Applies merge patches for its current resource version. Each of the next patches raises one of `refusals`."""

    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    refusals: list[ClusterError] = field(default_factory=list)
    gone: bool = False
    refuses_events: bool = False
    patches: list[dict[str, Any]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def read(self) -> NodeState:
        if self.gone:
            raise ClusterError('cannot read node n: 404 Not Found: nodes "n" not found')
        return NodeState(dict(self.labels), dict(self.annotations), str(len(self.patches)))

    def patch(self, body: dict[str, Any]) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        if body["metadata"]["resourceVersion"] != str(len(self.patches)):
            raise ConflictError("409 Conflict")
        self.patches.append(body)
        for kept, name in ((self.labels, "labels"), (self.annotations, "annotations")):
            for key, value in body["metadata"].get(name, {}).items():
                if value is None:
                    kept.pop(key, None)
                else:
                    kept[key] = value

    def emit_event(self, _kind: str, _reason: str, message: str) -> None:
        if self.gone or self.refuses_events:
            raise ClusterError("cannot create an event for node n: 403 Forbidden")
        self.events.append(message)
