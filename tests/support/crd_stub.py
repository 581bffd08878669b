"""A CRD in place of another project's, with one version."""

from typing import Any

ANYTHING: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def a_crd_stub(
    kind: str, group: str, version: str, *, scope: str = "Namespaced", schema: dict[str, Any] = ANYTHING
) -> dict[str, Any]:
    """Without a schema, the API server takes whatever an object says."""
    singular = kind.lower()
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{singular}s.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": kind, "plural": f"{singular}s", "singular": singular},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
