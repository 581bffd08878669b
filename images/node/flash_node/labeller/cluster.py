"""The two requests that the labeller makes: its node's labels, and events about its node."""

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

from flash_node.labels import NodeState

FIELD_MANAGER = "flash-labeller"
EVENTS_NAMESPACE = "default"
"""Where the API server wants events about objects that live in no namespace."""

NODE_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
"""A DNS subdomain, as every name of a node."""

NOTE_LIMIT = 1024
TIMEOUT_SECONDS = 20.0
CONFLICT = 409


class ClusterError(RuntimeError):
    """The API server did not do it; the message says what and why."""


class ConflictError(ClusterError):
    """Somebody else changed the node meanwhile."""


class NodeClient:
    """One node, as the labeller's account may touch it. Raises ClusterError."""

    def __init__(self, node: str, api: client.ApiClient) -> None:
        self._node = node
        self._core = client.CoreV1Api(api)
        self._events = client.EventsV1Api(api)

    def read(self) -> NodeState:
        # Its JSON as it is: typed models refuse a node that has a field of a newer Kubernetes.
        answer = self._do("read", self._core.read_node, self._node, _preload_content=False)
        return NodeState.of(json.loads(answer.data))

    def patch(self, body: dict[str, Any]) -> None:
        self._do(
            "patch",
            self._core.patch_node,
            self._node,
            body,
            field_manager=FIELD_MANAGER,
            _content_type="application/merge-patch+json",
            _preload_content=False,
        )

    def tell(self, kind: str, reason: str, message: str) -> None:
        """An event about the node; what was told before is told no second time."""
        event = client.EventsV1Event.model_validate(node_event(self._node, kind, reason, message))
        try:
            self._do("tell of", self._events.create_namespaced_event, EVENTS_NAMESPACE, event)
        except ConflictError:
            return  # it is there already, by its name

    def _do(self, what: str, call: Callable[..., Any], *arguments: object, **more: object) -> Any:
        try:
            return call(*arguments, _request_timeout=TIMEOUT_SECONDS, **more)
        except ApiException as error:
            told = f"cannot {what} node {self._node}: {error.status} {error.reason}: {_words(error)}"
            raise (ConflictError if error.status == CONFLICT else ClusterError)(told) from error
        except HTTPError as error:
            raise ClusterError(f"cannot {what} node {self._node}: {error}") from error


def _words(error: ApiException) -> str:
    return " ".join(str(error.body or "").split())[:300]


def node_event(node: str, kind: str, reason: str, message: str) -> dict[str, Any]:
    """Its name follows from what it says, so that a repeat is no second event."""
    digest = hashlib.sha256(f"{node} {reason} {message}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{node}.{digest}", "namespace": EVENTS_NAMESPACE},
        # `kubectl describe node` looks for the node's name, which is what a kubelet writes as its uid.
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node},
        "type": kind,
        "reason": reason,
        "action": "Label",
        "note": message[:NOTE_LIMIT],
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": "deepseekflash.dev/flash-labeller",
        "reportingInstance": node[:128],
    }


def node_name(text: str) -> str:
    """Raises ArgumentTypeError for what the API server would take for another path than that of a node."""
    if not NODE_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a node")
    return text


def connect(node: str) -> NodeClient:
    """As the pod's account, or as KUBECONFIG says outside of a cluster. Raises ClusterError."""
    try:
        config.load_config()  # type: ignore[no-untyped-call]
    except Exception as error:
        words = " ".join(str(error).split())
        raise ClusterError(f"no cluster to talk to: {words}; set KUBECONFIG, or run in a pod") from error
    return NodeClient(node, client.ApiClient())
