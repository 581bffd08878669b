"""Shared by tests of downloaded models: a claim for the cache, a deployment, and its download in status."""

import os
from pathlib import Path
from typing import Any

import yaml

from cluster_fixtures import LocalCluster
from e2e_env import ROOT, Flash, apply, get_json, model_claim
from flash_contracts.names import API_VERSION, KIND

START_SECONDS = 400
ENGINE_USER = 65532


def node_address(cluster: LocalCluster) -> str:
    """The address at which pods reach servers on the node, which is this machine."""
    addresses = get_json(cluster, "node", cluster.node_name)["status"]["addresses"]
    (host,) = [address["address"] for address in addresses if address["type"] == "InternalIP"]
    return str(host)


def cache_claim(cluster: LocalCluster, namespace: str, folder: Path, name: str) -> None:
    """A claim that engines can write to. It is deleted with the namespace, its folder by pytest, some runs later."""
    folder.mkdir()
    os.chown(folder, ENGINE_USER, ENGINE_USER)
    volume, claim = model_claim(namespace, str(folder), name)
    for made in (volume, claim):
        made["spec"]["accessModes"] = ["ReadWriteMany"]
    apply(cluster, volume, claim)


def serve(cluster: LocalCluster, namespace: str, name: str, model: dict[str, Any], **spec: Any) -> Flash:
    """Applies examples/tiny.yaml with another model and other fields."""
    example = yaml.safe_load((ROOT / "examples" / "tiny.yaml").read_text())["spec"]
    served = {"servedNames": example["model"]["servedNames"], **model}
    metadata = {"name": name, "namespace": namespace}
    whole = {**example, **{field: {**example.get(field, {}), **value} for field, value in spec.items()}}
    whole["model"] = served
    apply(cluster, {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": whole})
    return Flash(cluster, namespace, name)


def download_status(flash: Flash) -> dict[str, Any]:
    """`delivery` in the status of the first pod."""
    pods = flash.status().get("pods") or [{}]
    found: dict[str, Any] = pods[0].get("delivery") or {}
    return found
