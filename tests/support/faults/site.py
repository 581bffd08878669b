"""A real API server with the real controllers of Deployments, a stub of the kubelets, and an operator that suffers."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from faults.api_proxy import ApiProxy
from faults.history import History
from faults.kubelet_stub import MERGE, KubeletStub
from faults.operator_process import OperatorProcess
from faults.schedule import Event, Fault
from flash_contracts.names import API_VERSION, GROUP, KIND, PLURAL, VERSION
from flash_operator.runtime.api_connection import ApiConnection, ApiError, UnreachableError
from local_cluster.binaries import binary
from local_cluster.control_plane import ControlPlane
from scripted_api_stub import kubeconfig

CONTROLLERS = ("deployment", "replicaset", "garbagecollector", "namespace", "serviceaccount", "endpointslice")
NODES = 8
REPLICAS = {"one": 1, "two": 2}
"""Of the deployments that must be ready in the end."""
TAKEN = "taken"
"""A deployment with the name of somebody else's Service."""
LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/flash-operator"


def start_controllers(plane: ControlPlane) -> None:
    """Those of Deployments, garbage and namespaces; nodes are the stub's."""
    plane.processes.start(
        "kube-controller-manager",
        str(binary("kube-controller-manager")),
        f"--kubeconfig={plane.kubeconfig}",
        f"--controllers={','.join(CONTROLLERS)}",
        f"--root-ca-file={plane.authority.certificate}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--secure-port=0",
        "--concurrent-gc-syncs=4",
    )


class FaultSite:
    """Two namespaces of one run. What was done on purpose is remembered, so that the rest can be judged."""

    def __init__(self, plane: ControlPlane, api: ApiConnection, seed: int, folder: Path) -> None:
        self.plane = plane
        self.api = api
        self.proxy = ApiProxy(plane, seed)
        self.kubelet = KubeletStub(api)
        self.history = History(api)
        self.folder = folder
        self.log = folder / "operator.log"
        name = f"faults-{seed}-{uuid.uuid4().hex[:5]}"
        self.namespace, self.doomed = name, f"{name}-doomed"
        self.nodes = [f"{name}-{number}" for number in range(NODES)]
        self.gone_nodes: set[str] = set()
        self.deleted: set[tuple[str, str]] = set()
        """Namespace and name of deployments that were deleted on purpose."""
        self.foreign: dict[str, Any] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            address = await stack.enter_async_context(self.proxy.serve())
            file = self.folder / "kubeconfig"
            file.write_text(kubeconfig(address))
            self.operator = OperatorProcess("one", file, self.log)
            await stack.enter_async_context(self.kubelet.serve())
            await self._create()
            await stack.enter_async_context(self.history.recording())
            await stack.enter_async_context(self.operator.running())
            try:
                yield
            finally:
                await self._remove()

    async def _create(self) -> None:
        for node in self.nodes:
            await self.create_node(node)
        for namespace in (self.namespace, self.doomed):
            await self.send("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        service = {"metadata": {"name": TAKEN}, "spec": {"ports": [{"name": "http", "port": 8000}]}}
        self.foreign = await self.send("POST", f"/api/v1/namespaces/{self.namespace}/services", service)
        for name, replicas in {**REPLICAS, TAKEN: 1}.items():
            await self.create_deployment(self.namespace, name, replicas)
        await self.create_deployment(self.doomed, "one", 1)

    async def _remove(self) -> None:
        """The next run has a clean table."""
        self.proxy.status, self.proxy.watches_gone = 0, False
        for namespace in (self.namespace, self.doomed):
            await self._quietly("DELETE", f"/api/v1/namespaces/{namespace}")
        for node in self.nodes:
            await self._quietly("DELETE", f"/api/v1/nodes/{node}")

    async def create_node(self, name: str) -> None:
        labels = {"deepseekflash.dev/gpu-link": "phb", "deepseekflash.dev/gpu-p2p": "verified"}
        await self.send("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
        status = {"allocatable": {"nvidia.com/gpu": "2"}, "conditions": [{"type": "Ready", "status": "True"}]}
        await self.send("PATCH", f"/api/v1/nodes/{name}/status", {"status": status})

    async def create_deployment(self, namespace: str, name: str, replicas: int) -> None:
        spec = {"model": {"source": "pvc://models/v4"}, "replicas": replicas}
        raw = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
        await self.send("POST", deployments_path(namespace), raw)

    async def send(self, method: str, path: str, body: Any = None, seconds: float = 40) -> dict[str, Any]:
        """As a patient user: tries again while the API server is away."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                kind = MERGE if method == "PATCH" else "application/json"
                return await self.api.request(method, path, body=body, content_type=kind)
            except (ApiError, UnreachableError) as error:
                is_final = isinstance(error, ApiError) and error.status in (404, 422)
                if isinstance(error, ApiError) and error.status == 409 and method == "POST":
                    return {}
                if is_final or asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.3)

    async def _quietly(self, method: str, path: str) -> None:
        """What is gone already need not be deleted."""
        try:
            await self.send(method, path)
        except ApiError as error:
            if not error.not_found:
                raise

    async def play(self, events: list[Event]) -> None:
        """All events at their times, each in a task of its own because some last."""
        began = asyncio.get_running_loop().time()

        async def happen(event: Event) -> None:
            await asyncio.sleep(max(0.0, began + event.at - asyncio.get_running_loop().time()))
            await self._causes()[event.fault](event.seconds)

        await asyncio.gather(*map(happen, events))

    def _causes(self) -> dict[Fault, Callable[[float], Awaitable[None]]]:
        return {
            Fault.OPERATOR_KILLED: self._kill_operator,
            Fault.OPERATOR_FROZEN: self._freeze_operator,
            Fault.API_SERVER_KILLED: self._kill_api_server,
            Fault.ETCD_KILLED: self._kill_etcd,
            Fault.EVENTS_DROPPED: lambda seconds: self._while(self.proxy, "drops", seconds, value=True),
            Fault.EVENTS_REPEATED: lambda seconds: self._while(self.proxy, "repeats", seconds, value=True),
            Fault.THROTTLED: lambda seconds: self._while(self.proxy, "status", seconds, value=429),
            Fault.FAILING: lambda seconds: self._while(self.proxy, "status", seconds, value=500),
            Fault.WATCHES_GONE: lambda seconds: self._while(self.proxy, "watches_gone", seconds, value=True),
            Fault.GATES_SILENT: lambda seconds: self._while(self.kubelet, "silent", seconds, value=True),
            Fault.LEASE_STOLEN: self._steal_lease,
            Fault.NODE_GONE: self._lose_node,
            Fault.DEPLOYMENT_DELETED: self._delete_deployment,
            Fault.NAMESPACE_DELETED: self._delete_namespace,
        }

    async def _while(self, subject: object, name: str, seconds: float, *, value: object) -> None:
        before = getattr(subject, name)
        setattr(subject, name, value)
        await asyncio.sleep(seconds)
        setattr(subject, name, type(before)())

    async def _kill_operator(self, _seconds: float) -> None:
        self.operator.signal(signal.SIGKILL)

    async def _freeze_operator(self, seconds: float) -> None:
        self.operator.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.operator.signal(signal.SIGCONT)

    async def _kill_api_server(self, _seconds: float) -> None:
        await asyncio.to_thread(self.plane.restart, "kube-apiserver")

    async def _kill_etcd(self, _seconds: float) -> None:
        await asyncio.to_thread(self.plane.restart, "etcd")

    async def _steal_lease(self, seconds: float) -> None:
        """The thief does not lead for long, and releases the Lease as a good candidate does."""
        await self._quietly_patch(LEASE, {"spec": {"holderIdentity": "thief"}})
        await asyncio.sleep(seconds)
        await self._quietly_patch(LEASE, {"spec": {"holderIdentity": ""}})

    async def _quietly_patch(self, path: str, body: dict[str, Any]) -> None:
        """There may be no Lease yet."""
        try:
            await self.send("PATCH", path, body)
        except ApiError as error:
            if not error.not_found:
                raise

    async def _lose_node(self, _seconds: float) -> None:
        """One that has a replica of ours, if there is any."""
        pods = (await self.send("GET", f"/api/v1/namespaces/{self.namespace}/pods"))["items"]
        node = next((pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")), self.nodes[0])
        self.gone_nodes.add(node)
        await self._quietly("DELETE", f"/api/v1/nodes/{node}")

    async def _delete_deployment(self, seconds: float) -> None:
        self.deleted.add((self.namespace, "one"))
        path = f"{deployments_path(self.namespace)}/one"
        await self._quietly("DELETE", path)
        await asyncio.sleep(seconds)
        await self.create_deployment(self.namespace, "one", REPLICAS["one"])

    async def _delete_namespace(self, _seconds: float) -> None:
        self.deleted.add((self.doomed, "one"))
        await self._quietly("DELETE", f"/api/v1/namespaces/{self.doomed}")


def deployments_path(namespace: str) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
