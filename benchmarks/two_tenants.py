"""The cost of a hostile tenant for its neighbour: .venv/bin/python benchmarks/two_tenants.py [--rounds 3] [--each 5]

A real API server without controllers and kubelets, the operator as a process, and gates that this program simulates on
loopback addresses. In each round the quiet tenant's deployments are timed alone, then beside a tenant with all of these
faults:

    20 deployments that the API server refuses          40 pods whose gates never answer
    10 gates that answer with gigabytes                 10 gates that redirect to the neighbour's
    an incident on the node that both use               a deployment with the name of an existing Service

Times: apply to Deployment; a pod's creation on its node to its flags; the gate's Passed to the condition Ready.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiohttp import web

from custom_resource import install_crd
from flash_contracts.names import (
    API_VERSION,
    DEPLOYMENT_LABEL,
    ENGINE_FLAGS_ANNOTATION,
    KIND,
    P2P_LABEL,
)
from flash_operator.core.resources.deployment import GATE_PORT
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.store import OURS
from local_cluster.control_plane import ControlPlane, a_light_control_plane
from operator_at_scale import Process, an_operator

NODE = "shared"
QUIET, SILENT, GIANT, REDIRECTING, ACCUSING = (f"127.0.1.{number}" for number in range(1, 6))
"""Addresses of the gates."""

PASSED = {
    "reason": "Passed",
    "passed": True,
    "ready": True,
    "measurement": {"decodeTokensPerSecond": 85.0, "acceptancePercent": 90.0},
}
INCIDENT = {"kind": "hang", "signature": "S2", "detail": "no progress", "at": "2026-11-28T12:00:00Z", "row": "T1"}
ACCUSATION = {
    **PASSED,
    "engine": {"incident": INCIDENT},
    "effective": {"origin": "recovery", "flags": {"row": "T8", "args": [], "env": []}},
}
GIBIBYTE = 1 << 30

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Figures:
    """Seconds of the quiet tenant, in one case."""

    to_deployment: list[float] = field(default_factory=list)
    to_flags: list[float] = field(default_factory=list)
    to_ready: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both cases by turns")
    parser.add_argument("--each", type=int, default=5, help="deployments timed in each case of a round")
    options = parser.parse_args()
    plane = a_light_control_plane()
    try:
        install_crd(plane)
        os.environ["KUBECONFIG"] = str(plane.kubeconfig)
        with an_operator(plane) as operator:
            for line in asyncio.run(measure(plane, operator, options.rounds, options.each)):
                print(line, flush=True)
    finally:
        plane.stop()


async def measure(plane: ControlPlane, operator: Process, rounds: int, each: int) -> Iterator[str]:
    """The table's lines."""
    api, quiet = await Cluster.connect(), QuietGate()
    runners = [await gate_at(address, answer) for address, answer in gates(quiet).items()]
    apply(plane, *node())
    cases = {"alone": Figures(), "beside the hostile tenant": Figures()}
    most = 0.0
    for _ in range(rounds):
        for name, figures in cases.items():
            hostile = None if name == "alone" else hostile_tenant(plane)
            for _ in range(each):
                await quiet_tenant(plane, api, quiet, figures)
                most = max(most, operator.resident_mebibytes)
            if hostile:
                remove(plane, hostile)
    (shared,) = await api.list("Node")
    for runner in runners:
        await runner.cleanup()
    await api.close()
    return table(cases, most, shared["metadata"]["labels"].get(P2P_LABEL))


def table(cases: dict[str, Figures], most: float, p2p: str | None) -> Iterator[str]:
    yield f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}; median and most of each case\n"
    yield "| case | apply to Deployment | bind to flags | gate's Passed to Ready |\n| --- | --- | --- | --- |"
    for name, figures in cases.items():
        columns = (figures.to_deployment, figures.to_flags, figures.to_ready)
        cells = [f"{1000 * statistics.median(times):.0f}, {1000 * max(times):.0f} ms" for times in columns]
        yield f"| {name} | {' | '.join(cells)} |"
    yield f"\nRSS of the operator at most {most:.0f} MiB; the shared node's verdict stayed {p2p!r}."


async def quiet_tenant(plane: ControlPlane, api: Cluster, gate: "QuietGate", figures: Figures) -> None:
    """One deployment from apply to Ready."""
    gate.answer = {"reason": "Measuring", "passed": False}
    namespace = new_namespace(plane, "quiet")
    began = time.monotonic()
    await api.apply(flash(namespace, "flash"))
    deployment = await first_found(lambda: deployment_of(api, namespace))
    figures.to_deployment.append(time.monotonic() - began)
    apply(plane, pod(namespace, "flash", deployment["spec"]["template"]["metadata"]["annotations"]))
    began = time.monotonic()
    await first_found(lambda: flags_of(api, namespace))
    figures.to_flags.append(time.monotonic() - began)
    settled = {"observedGeneration": deployment["metadata"]["generation"], "replicas": 1, "updatedReplicas": 1}
    set_status(plane, "deployment", namespace, "flash", settled)
    set_status(plane, "pod", namespace, "flash", running_at(QUIET))
    await first_found(lambda: is_reason(api, namespace, "Measuring"))
    gate.answer = PASSED
    began = time.monotonic()
    set_status(plane, "pod", namespace, "flash", running_at(QUIET, ready="True"))
    await first_found(lambda: is_reason(api, namespace, "Passed"))
    figures.to_ready.append(time.monotonic() - began)
    remove(plane, namespace)


def hostile_tenant(plane: ControlPlane) -> str:
    """Its namespace, with everything in it."""
    namespace = new_namespace(plane, "hostile")
    port = {"port": 80}
    taken = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken", "namespace": namespace}}
    refused = {"spec": {"containers": [{"name": "engine", "volumeMounts": [{"name": "none", "mountPath": "/none"}]}]}}
    named = [*((f"silent-{n}", SILENT) for n in range(40)), *((f"giant-{n}", GIANT) for n in range(10))]
    named += [*((f"redirects-{n}", REDIRECTING) for n in range(10)), ("accuses", ACCUSING)]
    apply(
        plane,
        {**taken, "spec": {"ports": [port]}},
        flash(namespace, "taken"),
        *(flash(namespace, f"refused-{number}", podTemplate=refused) for number in range(20)),
        *(flash(namespace, name) for name, _ in named),
        *(pod(namespace, name, {}) for name, _ in named),
    )
    for name, address in named:
        set_status(plane, "pod", namespace, name, running_at(address))
    return namespace


class QuietGate:
    """What the quiet tenant's gate answers."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] = {}


def gates(quiet: QuietGate) -> dict[str, Handler]:
    async def of_quiet(_request: web.Request) -> web.StreamResponse:
        return web.json_response(quiet.answer)

    async def silent(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise web.HTTPGone

    async def giant(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(GIBIBYTE // 65536):
            await response.write(b" " * 65536)
        return response

    async def redirecting(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"http://{QUIET}:{GATE_PORT}/result")

    async def accusing(_request: web.Request) -> web.StreamResponse:
        return web.json_response(ACCUSATION)

    return {QUIET: of_quiet, SILENT: silent, GIANT: giant, REDIRECTING: redirecting, ACCUSING: accusing}


async def gate_at(address: str, answer: Handler) -> web.AppRunner:
    app = web.Application()
    app.router.add_get("/result", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, address, GATE_PORT).start()
    return runner


def node() -> tuple[dict[str, Any], ...]:
    labels = {"deepseekflash.dev/gpu-link": "phb", "deepseekflash.dev/gpu-p2p": "verified"}
    return ({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels}},)


def flash(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    spec = {"model": {"source": "pvc://models/v4"}, **spec}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def pod(namespace: str, name: str, annotations: dict[str, str]) -> dict[str, Any]:
    """A pod as the Deployment controller and the scheduler would create it."""
    labels = {**OURS, DEPLOYMENT_LABEL: name}
    metadata = {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations}
    containers = [{"name": "engine", "image": "engine"}]
    spec = {"nodeName": NODE, "containers": containers, "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def running_at(address: str, ready: str = "False") -> dict[str, Any]:
    """As the kubelet reports a pod whose gate runs."""
    gate = {"name": "gate", "image": "", "imageID": "", "ready": ready == "True", "restartCount": 0}
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": ready}],
        "initContainerStatuses": [{**gate, "state": {"running": {"startedAt": "2026-11-28T12:00:00Z"}}}],
    }


def set_status(plane: ControlPlane, kind: str, namespace: str, name: str, status: dict[str, Any]) -> None:
    patch = json.dumps({"status": status})
    plane.kubectl("patch", kind, name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def new_namespace(plane: ControlPlane, name: str) -> str:
    namespace = f"{name}-{uuid.uuid4().hex[:6]}"
    plane.kubectl("create", "namespace", namespace)
    plane.kubectl("create", "serviceaccount", "default", "-n", namespace)
    return namespace


def apply(plane: ControlPlane, *objects: dict[str, Any]) -> None:
    text = "\n---\n".join(map(json.dumps, objects))
    plane.kubectl("apply", "--server-side", "-f", "-", stdin=text)


def remove(plane: ControlPlane, namespace: str) -> None:
    """Deletes the children, because no controller collects them here."""
    for kinds in ("dsf", "deployments,services,configmaps,poddisruptionbudgets,controllerrevisions"):
        plane.kubectl("delete", kinds, "--all", "-n", namespace)
    plane.kubectl("delete", "pods", "--all", "-n", namespace, "--force", "--grace-period=0")


async def deployment_of(api: Cluster, namespace: str) -> dict[str, Any]:
    """Empty until there is one."""
    found = await api.list("Deployment", namespace)
    return found[0] if found else {}


async def flags_of(api: Cluster, namespace: str) -> str | None:
    found = await api.get("Pod", "flash", namespace) or {}
    flags: str | None = found["metadata"]["annotations"].get(ENGINE_FLAGS_ANNOTATION)
    return flags


async def is_reason(api: Cluster, namespace: str, reason: str) -> bool:
    found = await api.get(KIND, "flash", namespace) or {}
    conditions = found.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["reason"] == reason for condition in conditions)


async def first_found(look: Callable[[], Awaitable[T]], seconds: float = 60) -> T:
    """The first thing found that counts as true."""
    async with asyncio.timeout(seconds):
        while not (found := await look()):
            await asyncio.sleep(0.005)
    return found


if __name__ == "__main__":
    main()
