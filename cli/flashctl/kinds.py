"""Paths of the kinds that commands read or change, for requests with raw objects.

Raw objects keep fields that this plugin does not know, so it works with a newer or an older CRD.
"""

from dataclasses import dataclass

from flash_contracts.names import GROUP, KIND, PLURAL, VERSION


@dataclass(frozen=True)
class Resource:
    """A kind in the API."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    @property
    def prefix(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def full_name(self) -> str:
        """As in `kubectl auth can-i VERB NAME`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The path of an object or a list; of all namespaces if none is given."""
        folder = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return self.prefix + folder + "".join(f"/{part}" for part in (self.plural, name, subresource) if part)


RESOURCES = {
    KIND: Resource(GROUP, VERSION, PLURAL),
    "ConfigMap": Resource("", "v1", "configmaps"),
    "ControllerRevision": Resource("apps", "v1", "controllerrevisions"),
    "CustomResourceDefinition": Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", namespaced=False),
    "DaemonSet": Resource("apps", "v1", "daemonsets"),
    "Deployment": Resource("apps", "v1", "deployments"),
    "Event": Resource("events.k8s.io", "v1", "events"),
    "HorizontalPodAutoscaler": Resource("autoscaling", "v2", "horizontalpodautoscalers"),
    "Job": Resource("batch", "v1", "jobs"),
    "Lease": Resource("coordination.k8s.io", "v1", "leases"),
    "Node": Resource("", "v1", "nodes", namespaced=False),
    "PersistentVolumeClaim": Resource("", "v1", "persistentvolumeclaims"),
    "Pod": Resource("", "v1", "pods"),
    "PodDisruptionBudget": Resource("policy", "v1", "poddisruptionbudgets"),
    "ReplicaSet": Resource("apps", "v1", "replicasets"),
    "RuntimeClass": Resource("node.k8s.io", "v1", "runtimeclasses", namespaced=False),
    "ScaledObject": Resource("keda.sh", "v1alpha1", "scaledobjects"),
    "Service": Resource("", "v1", "services"),
}
