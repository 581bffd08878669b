"""An adapter between the operator's metrics and the HPA controller: external.metrics.k8s.io, behind the API server.

It serves what a user's adapter would read from Prometheus. It checks nobody's identity, because only the local cluster
reaches it.
"""

import asyncio
import base64
import ssl
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from direct_http import WITHOUT_PROXY
from e2e_env import OPERATOR_NAMESPACE, RELEASE, apply, get_json
from local_cluster.cluster import LocalCluster
from local_cluster.pki import Authority
from ports import a_free_port

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
NAMESPACE, SERVICE = "kube-system", "metrics-adapter"
API = f"/apis/{GROUP}/{VERSION}"

Document = dict[str, Any]
Labels = dict[str, str]


def samples(page: str, name: str, wanted: Labels) -> list[float]:
    """Values of a metric on a page of Prometheus' text format, of the series that have these labels."""
    found = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return [sample.value for sample in found if sample.name == name and wanted.items() <= sample.labels.items()]


def metric_values(name: str, values: list[float], wanted: Labels) -> Document:
    """As the HPA controller reads it. A metric without a series has no value, which is not 0."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {
        "kind": "ExternalMetricValueList",
        "apiVersion": f"{GROUP}/{VERSION}",
        "metadata": {},
        "items": [
            {"metricName": name, "metricLabels": wanted, "timestamp": now, "value": f"{round(value * 1000)}m"}
            for value in values
        ],
    }


@dataclass
class MetricsAdapter:
    """A context in which the adapter runs in a thread, and the API server knows it."""

    cluster: LocalCluster
    port: int = field(default_factory=a_free_port)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __enter__(self) -> Self:
        authority = Authority(self.cluster.run / "metrics-adapter-pki")
        certificate, key = authority.issue("tls", SERVICE, addresses=[f"{SERVICE}.{NAMESPACE}.svc"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._thread = threading.Thread(target=self._serve, args=[context], daemon=True)
        self._thread.start()
        self._objects = _objects(self.cluster.network.gateway, self.port, authority.certificate.read_bytes())
        apply(self.cluster, *self._objects)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for thing in reversed(self._objects):
            name = f"{thing['kind']}/{thing['metadata']['name']}"
            self.cluster.kubectl("delete", name, "-n", NAMESPACE, "--ignore-not-found")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self, context: ssl.SSLContext) -> None:
        app = web.Application()
        app.router.add_get(API, self._resources)
        app.router.add_get(API + "/namespaces/{namespace}/{metric}", self._values)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, self.cluster.network.gateway, self.port, ssl_context=context)
        self._loop.run_until_complete(site.start())
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _resources(self, _: web.Request) -> web.Response:
        every = {
            "name": "*",
            "singularName": "",
            "namespaced": True,
            "kind": "ExternalMetricValueList",
            "verbs": ["get"],
        }
        body = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{GROUP}/{VERSION}",
            "resources": [every],
        }
        return _last_on_its_connection(body)

    async def _values(self, request: web.Request) -> web.Response:
        name, selector = request.match_info["metric"], request.query.get("labelSelector", "")
        wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
        page = await asyncio.to_thread(_page, self.cluster)
        return _last_on_its_connection(metric_values(name, samples(page, name, wanted), wanted))


def _last_on_its_connection(body: Document) -> web.Response:
    """No connection is left when the server stops: closing one with TLS takes longer than the loop lives."""
    response = web.json_response(body)
    response.force_close()
    return response


def _page(cluster: LocalCluster) -> str:
    """The operator's metrics."""
    service = get_json(cluster, "service", f"{RELEASE}-metrics", "-n", OPERATOR_NAMESPACE)
    with WITHOUT_PROXY.open(f"http://{service['spec']['clusterIP']}:8080/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def _objects(address: str, port: int, authority: bytes) -> list[Document]:
    """The HPA controller's right, and how the API server reaches the adapter: a host process, by its address."""
    rights = {"apiGroups": [GROUP], "resources": ["*"], "verbs": ["get", "list"]}
    subject = {"kind": "ServiceAccount", "name": "horizontal-pod-autoscaler", "namespace": "kube-system"}
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": SERVICE}, "rules": [rights]},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": SERVICE},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": SERVICE},
            "subjects": [subject],
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": NAMESPACE},
            "spec": {"type": "ExternalName", "externalName": address, "ports": [{"port": port}]},
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{VERSION}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "version": VERSION,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "caBundle": base64.b64encode(authority).decode(),
                "service": {"name": SERVICE, "namespace": NAMESPACE, "port": port},
            },
        },
    ]
