"""The API requests of the labeller: its node's labels, and events about its node."""

import argparse
import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from flash_contracts import event_note
from flash_node.labels import NodeState

FIELD_MANAGER = "flash-labeller"
EVENTS_NAMESPACE = "default"
"""The API server requires this namespace for events about cluster-scoped objects."""

NODE_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
"""Node names are DNS subdomains."""

TIMEOUT_SECONDS = 20.0
CONFLICT = 409


class ClusterError(RuntimeError):
    """A request failed. The message names the request and the reason."""


class ConflictError(ClusterError):
    """The node was changed in between."""


class NodeClient:
    """Reads and patches one node with the labeller's permissions. Raises ClusterError."""

    def __init__(self, node: str, api: client.ApiClient) -> None:
        self._node = node
        self._core = client.CoreV1Api(api)
        self._events = client.EventsV1Api(api)

    def read(self) -> NodeState:
        # Raw JSON, because the typed models reject a node with a field of a newer Kubernetes.
        answer = self._request("read", self._core.read_node, self._node, _preload_content=False)
        return NodeState.of(json.loads(answer.data))

    def patch(self, body: dict[str, Any]) -> None:
        self._request(
            "patch",
            self._core.patch_node,
            self._node,
            body,
            field_manager=FIELD_MANAGER,
            _content_type="application/merge-patch+json",
            _preload_content=False,
        )

    def emit_event(self, kind: str, reason: str, message: str) -> None:
        """Emit an event about the node. An event with the same content is not emitted twice."""
        event = client.EventsV1Event.model_validate(node_event(self._node, kind, reason, message))
        try:
            self._request("create an event for", self._events.create_namespaced_event, EVENTS_NAMESPACE, event)
        except ConflictError:
            return  # an event with this name exists already

    def _request(self, action: str, call: Callable[..., Any], *arguments: object, **more: object) -> Any:
        try:
            return call(*arguments, _request_timeout=TIMEOUT_SECONDS, **more)
        except ApiException as error:
            message = f"cannot {action} node {self._node}: {error.status} {error.reason}: {_body_text(error)}"
            raise (ConflictError if error.status == CONFLICT else ClusterError)(message) from error
        except HTTPError as error:
            raise ClusterError(f"cannot {action} node {self._node}: {error}") from error


def _body_text(error: ApiException) -> str:
    return " ".join(str(error.body or "").split())[:300]


def node_event(node: str, kind: str, reason: str, message: str) -> dict[str, Any]:
    """An event named by a hash of its content, so that a repetition does not create a second one."""
    digest = hashlib.sha256(f"{node} {reason} {message}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{node}.{digest}", "namespace": EVENTS_NAMESPACE},
        # `kubectl describe node` selects events by uid, and kubelets write the node's name as its uid.
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node},
        "type": kind,
        "reason": reason,
        "action": "Label",
        "note": event_note.note(message, details="flash-topology"),
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": "deepseekflash.dev/flash-labeller",
        "reportingInstance": node[:128],
    }


def node_name(text: str) -> str:
    """Check a node name. Raises ArgumentTypeError, because another name could change the path of the request."""
    if not NODE_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid node name")
    return text


def connect(node: str) -> NodeClient:
    """Use the pod's service account, or KUBECONFIG outside a cluster. Raises ClusterError."""
    try:
        config.load_config()  # type: ignore[no-untyped-call]
    except Exception as error:
        message = " ".join(str(error).split())
        raise ClusterError(f"cannot connect to a cluster: {message}; set KUBECONFIG, or run in a pod") from error
    return NodeClient(node, client.ApiClient())
