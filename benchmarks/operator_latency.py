"""The figures of docs/performance.md: `make bench` starts the local cluster, measures, and prints them.

apply to Deployment   50 CRs, one after the other, from the request's start until a GET finds the Deployment
bind to flags         of one pod: from the first list with its node to the first list with its flags, and to
                      the launcher's log line about them
gate                  from the engine's first healthy answer to the verdict, as the gate itself says
API writes            the operator's own counter: from apply to Ready of one CR, and while nothing happens
RSS                   of the operator's process, with those 50 CRs and one engine
"""

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

import tiny_model
from e2e_env import (
    OPERATOR_NAMESPACE,
    RELEASE,
    ROOT,
    Flash,
    a_restricted_namespace,
    apply,
    get_json,
    install_operator,
    model_claim,
)
from flash_contracts.names import API_VERSION, DEPLOYMENT_LABEL, ENGINE_FLAGS_ANNOTATION, KIND
from flash_operator.runtime.cluster import Cluster
from image_builder.build import ensure_image
from image_builder.layout import cache_root, image_named
from local_cluster.cluster import LocalCluster
from operator_requests import Requests

COUNT = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--idle-seconds", type=int, default=600, help="how long to watch a cluster where nothing happens"
    )
    options = parser.parse_args()
    cluster = LocalCluster()
    was_running = cluster.running()
    cluster.up()
    try:
        for line in asyncio.run(measure(cluster, options.idle_seconds)):
            print(line, flush=True)
    finally:
        if not was_running:
            cluster.down()


async def measure(cluster: LocalCluster, idle_seconds: int) -> list[str]:
    """All figures, as lines of a table."""
    engine, operator = (ensure_image(image_named(name), cache_root()) for name in ("engine-cpu", "operator"))
    for image in (engine, operator):
        cluster.import_image(image)
    install_operator(cluster, operator)
    namespace = f"bench-{uuid.uuid4().hex[:6]}"
    apply(cluster, a_restricted_namespace(namespace))
    apply(cluster, *model_claim(namespace, str(tiny_model.build(cache_root() / "models"))))
    os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
    api = await Cluster.connect()
    try:
        seen = [await _apply_to_deployment(api, namespace, f"many-{number}") for number in range(COUNT)]
        writes = _writes(cluster)
        flash = _apply_tiny(cluster, namespace)
        bound, handed_over = await _bind_to_flags(api, flash)
        flash.wait_for("Ready", "True", seconds=600)
        pass_flags = (handed_over - bound, _taken_at(cluster, flash) - bound)
        to_ready = _writes(cluster) - writes
        writes = _writes(cluster)
        await asyncio.sleep(idle_seconds)
        idle = _writes(cluster) - writes
        return _table(cluster, flash, seen, pass_flags, to_ready, idle, idle_seconds)
    finally:
        await api.close()
        cluster.kubectl("delete", "namespace", namespace)
        cluster.kubectl("delete", "persistentvolume", "-l", f"flash-e2e={namespace}")


async def _apply_to_deployment(api: Cluster, namespace: str, name: str) -> float:
    """Seconds. No replicas: this is the operator's own time, not the scheduler's."""
    began = time.monotonic()
    await api.apply(
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"replicas": 0, "model": {"source": "pvc://models/v4"}},
        }
    )
    while await api.get("Deployment", name, namespace) is None:
        await asyncio.sleep(0.002)
    return time.monotonic() - began


def _apply_tiny(cluster: LocalCluster, namespace: str) -> Flash:
    example: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "tiny.yaml").read_text())
    apply(cluster, {**example, "metadata": {"name": "tiny", "namespace": namespace}})
    return Flash(cluster, namespace, "tiny")


async def _bind_to_flags(api: Cluster, flash: Flash) -> tuple[float, float]:
    """When its pod was bound and when it had its flags: seconds of the wall clock, to a few milliseconds."""
    bound: float | None = None
    while True:
        for pod in await api.list("Pod", flash.namespace, selector={DEPLOYMENT_LABEL: flash.name}):
            if bound is None and pod["spec"].get("nodeName"):
                bound = time.time()
            if bound and ENGINE_FLAGS_ANNOTATION in pod["metadata"].get("annotations", {}):
                return bound, time.time()
        await asyncio.sleep(0.002)


def _taken_at(cluster: LocalCluster, flash: Flash) -> float:
    """By the launcher's own log."""
    log = cluster.kubectl("logs", "-n", flash.namespace, flash.pod()["metadata"]["name"], "-c", "engine").stdout
    said = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    (received,) = (line for line in said if line.get("event") == "flags received")
    return datetime.fromisoformat(received["time"]).timestamp()


def _operator_pod(cluster: LocalCluster) -> dict[str, Any]:
    pods = get_json(cluster, "pods", "-n", OPERATOR_NAMESPACE, "-l", f"app.kubernetes.io/instance={RELEASE}")["items"]
    (pod,) = (pod for pod in pods if "deletionTimestamp" not in pod["metadata"])
    return dict(pod)


def _writes(cluster: LocalCluster) -> int:
    name = _operator_pod(cluster)["metadata"]["name"]
    path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{name}:8080/proxy/metrics"
    return Requests.of(cluster.kubectl("get", "--raw", path).stdout).writes


def _gate_millis(cluster: LocalCluster, flash: Flash) -> float:
    path = f"/api/v1/namespaces/{flash.namespace}/pods/{flash.pod()['metadata']['name']}:9400/proxy/result"
    return float(json.loads(cluster.kubectl("get", "--raw", path).stdout)["gateMillis"])


def _rss_mib(cluster: LocalCluster) -> float:
    """The largest process of the operator's pod, seen from its node, which is this machine."""
    uid = _operator_pod(cluster)["metadata"]["uid"]
    sizes = [0]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if uid in (process / "cgroup").read_text():
                sizes += [int(kib) for kib in re.findall(r"VmRSS:\s+(\d+)", (process / "status").read_text())]
        except OSError:
            continue  # it ended in the meantime
    return max(sizes) / 1024


def _table(
    cluster: LocalCluster,
    flash: Flash,
    seen: list[float],
    pass_flags: tuple[float, float],
    to_ready: int,
    idle: int,
    idle_seconds: int,
) -> list[str]:
    cuts = statistics.quantiles(seen, n=100)
    status = flash.status()["summary"]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}"
    rows = {
        f"`kubectl apply` to Deployment, p50 of {COUNT}": f"{cuts[49] * 1000:.0f} ms",
        f"`kubectl apply` to Deployment, p99 of {COUNT}": f"{cuts[98] * 1000:.0f} ms",
        "bind of a pod to its flags on it, to its launcher having them": " and ".join(
            f"{s * 1000:.0f} ms" for s in pass_flags
        ),
        "gate: engine healthy to verdict": f"{_gate_millis(cluster, flash):.0f} ms",
        "tiny model: decode, acceptance": f"{status['decodeTokensPerSecond']} tok/s, {status['acceptancePercent']} %",
        f"operator RSS, {COUNT + 1} CRs": f"{_rss_mib(cluster):.0f} MiB",
        "API writes of one CR, apply to Ready": str(to_ready),
        f"API writes in {idle_seconds} idle seconds": str(idle),
    }
    return [f"{datetime.now(UTC):%Y-%m-%d}, {machine}", "", "| figure | value |", "| --- | --- |"] + [
        f"| {name} | {value} |" for name, value in rows.items()
    ]


if __name__ == "__main__":
    main()
