"""Writes the base for `kubectl apply -k charts/kustomize`: what helm renders of the chart with its default values.

    python hack/kustomize_base.py

It needs helm, which the local cluster's programs include.
"""

from typing import Any

import yaml

from rendered_chart import CHART, render

BASE = CHART.parent / "kustomize"
NAMESPACE = "deepseek-flash-system"
HELMS_OWN = ("helm.sh/chart", "app.kubernetes.io/managed-by")
"""Labels that say that helm manages an object."""

HEAD = "# Generated from charts/deepseek-flash-operator by `make generate`. Change the chart, or overlay this.\n"
KUSTOMIZATION = f"""{HEAD}apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - namespace.yaml
  - crd.yaml
  - operator.yaml
"""


def files() -> dict[str, str]:
    """Content by name."""
    documents = [without_helms_labels(document) for document in render(namespace=NAMESPACE)]
    crds = [document for document in documents if document["kind"] == "CustomResourceDefinition"]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    return {
        "kustomization.yaml": KUSTOMIZATION,
        "namespace.yaml": written([namespace]),
        "crd.yaml": written(crds),
        "operator.yaml": written([document for document in documents if document not in crds]),
    }


def without_helms_labels(document: dict[str, Any]) -> dict[str, Any]:
    for metadata in (document["metadata"], ((document.get("spec") or {}).get("template") or {}).get("metadata") or {}):
        labels = metadata.get("labels") or {}
        for name in HELMS_OWN:
            labels.pop(name, None)
    (document["metadata"].get("annotations") or {}).pop("helm.sh/resource-policy", None)
    if document["metadata"].get("annotations") == {}:
        del document["metadata"]["annotations"]
    return document


def written(documents: list[dict[str, Any]]) -> str:
    return HEAD + yaml.safe_dump_all(documents, sort_keys=False, width=120)


if __name__ == "__main__":
    BASE.mkdir(exist_ok=True)
    for name, text in files().items():
        (BASE / name).write_text(text)
