"""What tests of fetched models share: a claim for the cache, what serves the model, and its delivery in status."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cluster_fixtures import LocalCluster
from flash_contracts.names import API_VERSION, KIND
from stage import ROOT, Flash, apply, get_json, model_claim, wait_until

START_SECONDS = 400
ENGINE_USER = 65532


def node_address(cluster: LocalCluster) -> str:
    """Where pods reach what runs on the node, which is this machine."""
    addresses = get_json(cluster, "node", cluster.node_name)["status"]["addresses"]
    (host,) = [address["address"] for address in addresses if address["type"] == "InternalIP"]
    return str(host)


@contextmanager
def cache_claim(cluster: LocalCluster, namespace: str, folder: Path, name: str) -> Iterator[None]:
    """A claim that engines may write. In the end their pods go first: the folder is theirs until then."""
    folder.mkdir()
    os.chown(folder, ENGINE_USER, ENGINE_USER)
    volume, claim = model_claim(namespace, str(folder), name)
    for made in (volume, claim):
        made["spec"]["accessModes"] = ["ReadWriteMany"]
    apply(cluster, volume, claim)
    try:
        yield
    finally:
        cluster.kubectl("delete", "dsf", "--all", "-n", namespace)
        wait_until(lambda: not get_json(cluster, "pods", "-n", namespace)["items"], "pods are gone", seconds=120)


def serve(cluster: LocalCluster, namespace: str, name: str, model: dict[str, Any], **spec: Any) -> Flash:
    """Apply examples/tiny.yaml with another model."""
    example = yaml.safe_load((ROOT / "examples" / "tiny.yaml").read_text())["spec"]
    served = {"servedNames": example["model"]["servedNames"], **model}
    metadata = {"name": name, "namespace": namespace}
    whole = {**example, **spec, "model": served}
    apply(cluster, {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": whole})
    return Flash(cluster, namespace, name)


def delivery(flash: Flash) -> dict[str, Any]:
    """Of the first pod."""
    pods = flash.status().get("pods") or [{}]
    found: dict[str, Any] = pods[0].get("delivery") or {}
    return found
