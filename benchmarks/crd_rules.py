"""How long the API server takes for a create, with each of several CRDs: what their CEL rules cost.

    python benchmarks/crd_rules.py BEFORE.yaml AFTER.yaml --rounds 300

The CRDs are served by one API server, each in an API group of its own. The creates are dry runs, one of each CRD in
turn, so a busy machine slows all of them alike.
"""

import argparse
import http.client
import json
import ssl
import statistics
import time
from pathlib import Path
from typing import Any

import yaml

from local_cluster.control_plane import ControlPlane, a_light_control_plane
from waiting import eventually

SPECS: dict[str, dict[str, Any]] = {
    "the least spec": {},
    "ten arguments and ten variables": {
        "engine": {
            "extraArgs": [f"--seed={n}" for n in range(10)],
            "extraEnv": [{"name": f"MINE_{n}", "value": "1"} for n in range(10)],
        },
        "interconnect": {"env": [{"name": f"NCCL_IB_{n}", "value": "1"} for n in range(10)]},
    },
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("crds", nargs="+", type=Path)
    options.add_argument("--rounds", type=int, default=300)
    chosen = options.parse_args()
    server = a_light_control_plane()
    try:
        paths = [_serve(server, path, f"group{at}.example") for at, path in enumerate(chosen.crds)]
        for name, spec in SPECS.items():
            _report(name, chosen.crds, _measure(server, paths, spec, chosen.rounds))
    finally:
        server.stop()


def _serve(server: ControlPlane, path: Path, group: str) -> str:
    """Serve the CRD in this group. Returns the path of its objects."""
    crd = yaml.safe_load(path.read_text())
    plural = crd["spec"]["names"]["plural"]
    crd["spec"]["group"] = group
    crd["metadata"]["name"] = f"{plural}.{group}"
    server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(crd))
    served = f"/apis/{group}/{crd['spec']['versions'][0]['name']}/namespaces/default/{plural}"
    eventually(lambda: server.kubectl("get", "--raw", served, check=False).returncode == 0, f"{group} is served")
    return served


def _measure(server: ControlPlane, paths: list[str], spec: dict[str, Any], rounds: int) -> list[list[float]]:
    """Milliseconds of each create, by CRD."""
    trust = ssl.create_default_context(cafile=str(server.certificate_authority))
    trust.load_cert_chain(server.client_certificate, server.client_key)
    connection = http.client.HTTPSConnection(server.address, server.port, context=trust)
    taken: list[list[float]] = [[] for _ in paths]
    for at in range(rounds + 10):
        for times, path in zip(taken, paths, strict=True):
            milliseconds = _create(connection, path, spec)
            if at >= 10:
                times.append(milliseconds)
    return taken


def _create(connection: http.client.HTTPSConnection, path: str, spec: dict[str, Any]) -> float:
    _, _, group, version, *_ = path.split("/")
    document = {
        "apiVersion": f"{group}/{version}",
        "kind": "DeepSeekFlashDeployment",
        "metadata": {"name": "flash"},
        "spec": {"model": {"source": "pvc://models/v4"}, **spec},
    }
    body = json.dumps(document)
    began = time.perf_counter()
    connection.request("POST", f"{path}?dryRun=All", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    taken = time.perf_counter() - began
    if answer.status != http.client.CREATED:
        raise RuntimeError(text.decode())
    return taken * 1000


def _report(name: str, crds: list[Path], taken: list[list[float]]) -> None:
    print(name)
    for path, times in zip(crds, taken, strict=True):
        low, middle, high = statistics.quantiles(times, n=4)
        size = path.stat().st_size
        rules = path.read_text().count(" rule: ")
        print(f"  {path}: {rules} rules, {size} bytes; {middle:.2f} ms ({low:.2f} to {high:.2f}), n={len(times)}")


if __name__ == "__main__":
    main()
