"""The cost of many deployments: .venv/bin/python benchmarks/operator_at_scale.py [--count 1000] [--rest-seconds 600]

A real API server without controllers and nodes, and the operator as a process. Deployments are applied at a fixed rate.

apply to Deployment   from the request's start until a watch shows the Deployment
at rest               the operator's own counters of requests, its CPU time and memory from /proc
restart               from the start of a second process until it has reconciled everything and its queue is empty
"""

import argparse
import asyncio
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from custom_resource import install_crd
from direct_http import WITHOUT_PROXY
from flash_contracts.names import API_VERSION, KIND
from flash_operator.runtime.cluster import Cluster
from local_cluster.control_plane import ControlPlane, a_light_control_plane
from operator_requests import Requests
from ports import a_free_port
from waiting import eventually

NAMESPACE = "many"
LEASE_SECONDS = 20
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """The operator under measurement."""

    pid: int
    port: int

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def resident_mebibytes(self) -> float:
        match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        return int(match[1]) / 1024 if match else 0.0

    def leads(self) -> bool:
        try:
            return self.metric("leader") == 1
        except urllib.error.URLError:
            return False  # it is not listening yet

    def metric(self, name: str) -> float:
        values = re.findall(rf"^flash_operator_{name}(?:{{.*}})? (\S+)$", self._metrics(), re.MULTILINE)
        return sum(map(float, values))

    def requests(self) -> Requests:
        return Requests.of(self._metrics())

    def _metrics(self) -> str:
        with WITHOUT_PROXY.open(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            page: str = answer.read().decode()
        return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="deployments")
    parser.add_argument("--rate", type=float, default=20.0, help="applied each second")
    parser.add_argument("--rest-seconds", type=float, default=600.0, help="how long to watch them at rest")
    options = parser.parse_args()
    plane = a_light_control_plane()
    try:
        install_crd(plane)
        plane.kubectl("create", "namespace", NAMESPACE)
        os.environ["KUBECONFIG"] = str(plane.kubeconfig)
        for line in measured(plane, options):
            print(line, flush=True)
    finally:
        plane.stop()


def measured(plane: ControlPlane, options: argparse.Namespace) -> Iterator[str]:
    cores = os.cpu_count()
    yield f"{datetime.now(UTC):%Y-%m-%d}, {cores} cores, {platform.machine()}, {options.count} deployments\n"
    yield "| figure | value |\n| --- | --- |"
    with an_operator(plane) as operator:
        latencies = asyncio.run(apply_all(options.count, options.rate))
        milliseconds = sorted(1000 * seconds for seconds in latencies)
        percentiles = statistics.quantiles(milliseconds, n=100)
        until_quiet(operator, options.count)
        writes = operator.requests().writes / options.count
        yield (
            f"| apply to Deployment at {options.rate:g} a second, p50, p99, most | "
            f"{percentiles[49]:.0f}, {percentiles[98]:.0f}, {milliseconds[-1]:.0f} ms |"
        )
        yield f"| writes for each deployment without pods | {writes:.1f} |"
        yield from at_rest(operator, options.rest_seconds)
    began = time.monotonic()
    with an_operator(plane) as operator:
        until_quiet(operator, options.count)
        yield f"| restart until quiet, with the former process's lease released | {time.monotonic() - began:.1f} s |"


def at_rest(operator: Process, seconds: float) -> Iterator[str]:
    before, cpu = operator.requests(), operator.cpu_seconds
    time.sleep(seconds)
    after = operator.requests()
    reads, writes = after.reads - before.reads, after.writes - before.writes
    yield f"| reads in {seconds:g} s at rest, resyncs among them | {reads:.0f}, {reads / seconds:.2f} a second |"
    yield f"| writes in {seconds:g} s at rest | {writes:.0f} |"
    yield f"| CPU at rest | {100 * (operator.cpu_seconds - cpu) / seconds:.1f} % of a core |"
    yield f"| RSS | {operator.resident_mebibytes:.0f} MiB |"


@contextmanager
def an_operator(plane: ControlPlane) -> Iterator[Process]:
    """Becomes the leader, and is stopped like a pod."""
    port = a_free_port()
    command = [sys.executable, "-m", "flash_operator", f"--health-port={port}", "--p2p-tests=off"]
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        operator = Process(process.pid, port)
        try:
            eventually(operator.leads, "it leads", seconds=LEASE_SECONDS)
            yield operator
        finally:
            process.send_signal(signal.SIGTERM)


def until_quiet(operator: Process, count: int) -> None:
    """Waits until the queue is empty and nothing was reconciled for a second."""

    def quiet() -> bool:
        done = operator.metric("reconcile_seconds_count")
        time.sleep(1)
        return (
            done >= count
            and operator.metric("reconcile_seconds_count") == done
            and not operator.metric("workqueue_depth")
        )

    eventually(quiet, "everything was reconciled", seconds=300)


async def apply_all(count: int, rate: float) -> list[float]:
    """Seconds from each apply to its Deployment."""
    api = await Cluster.connect()
    applied: dict[str, float] = {}
    async with deployments(api) as seen:
        began = time.monotonic()
        tasks = []
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(_apply(api, f"flash-{number}", applied)))
        await asyncio.gather(*tasks)
        async with asyncio.timeout(300):
            while len(seen) < count:
                await asyncio.sleep(0.1)
    await api.close()
    return [seen[name] - applied[name] for name in applied]


async def _apply(api: Cluster, name: str, applied: dict[str, float]) -> None:
    applied[name] = time.monotonic()
    metadata = {"name": name, "namespace": NAMESPACE}
    await api.apply(
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": metadata,
            "spec": {"model": {"source": "pvc://models/v4"}},
        }
    )


@asynccontextmanager
async def deployments(api: Cluster) -> AsyncIterator[dict[str, float]]:
    """When a watch first showed each Deployment."""
    seen: dict[str, float] = {}

    async def watch() -> None:
        async for name in _watched(api):
            seen.setdefault(name, time.monotonic())

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watched(api: Cluster) -> AsyncIterator[str]:
    async for event in api.watch("Deployment", NAMESPACE, "0"):
        if event["type"] != "BOOKMARK":
            yield event["object"]["metadata"]["name"]


if __name__ == "__main__":
    main()
