"""What real helm renders of the chart, as objects."""

import json
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from local_cluster.binaries import binary

CHART = Path(__file__).resolve().parents[1] / "charts/deepseek-flash-operator"
RELEASE = "flash"


def helm(*args: str) -> "subprocess.CompletedProcess[str]":
    """Runs helm. The caller checks for failure."""
    return subprocess.run([str(binary("helm")), *args], capture_output=True, text=True, check=False)


def render(*values: str, namespace: str = "system") -> list[dict[str, Any]]:
    """The objects with these values (KEY=VALUE), in helm's order. Raises RuntimeError with helm's words."""
    settings = [f"--set={value}" for value in values]
    done = helm("template", RELEASE, str(CHART), "--namespace", namespace, *settings)
    if done.returncode != 0:
        raise RuntimeError(f"helm template ended with {done.returncode}: {done.stderr.strip()}")
    return parsed(done.stdout)


def parsed(manifests: str) -> list[dict[str, Any]]:
    """The objects of a file. libyaml, because the CRD takes the parser in Python half a second."""
    return [document for document in yaml.load_all(manifests, yaml.CSafeLoader) if document]


def only(documents: list[dict[str, Any]], kind: str, name: str = RELEASE) -> dict[str, Any]:
    """The one object of this kind and name."""
    (found,) = (d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name)
    return found


def granted(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    """(API group, resource, verb) of a Role or ClusterRole."""
    return {one for rule in role["rules"] for one in product(rule["apiGroups"], rule["resources"], rule["verbs"])}


def bundle(documents: list[dict[str, Any]]) -> str:
    """Several objects in one file, as kubectl reads it."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
