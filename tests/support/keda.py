"""A real KEDA in the local cluster, by its own manifests and with its own rights.

It is the trimmed build of `local_cluster.autoscalers`. What differs from an installation of a user's:

    what                 | here
    -------------------- | ----------------------------------------------------------------
    names of Services    | in /etc/hosts of the pods, because the cluster has no DNS
    certificates         | made here; KEDA's own rotation would end its process once
    webhook for its CRDs | none
"""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from e2e_env import OPERATOR_NAMESPACE, RELEASE, apply, get_json, wait_until
from local_cluster.binaries import KEDA_MODULE, binary
from local_cluster.cluster import LocalCluster
from local_cluster.pki import Authority
from program_images import import_program

NAMESPACE = "keda"
OPERATOR, ADAPTER = "keda-operator", "keda-metrics-apiserver"
API = "v1beta1.external.metrics.k8s.io"
PARTS = ("general", "rbac", "service_account", "manager", "metrics-server")
"""Folders of KEDA's own manifests; `crd` comes first and by itself."""

IMAGES = {
    OPERATOR: ("localhost/keda:1", "keda-operator", "keda"),
    ADAPTER: ("localhost/keda-metrics-apiserver:1", "keda-adapter", "keda-adapter"),
}
"""Deployment -> image, our program, and its name in KEDA's images."""

Document = dict[str, Any]


@dataclass
class Keda:
    """Not there until `start`."""

    cluster: LocalCluster
    _applied: list[Document] = field(default_factory=list)

    def start(self) -> None:
        """Install everything in an order in which nothing has to be tried again, and wait until its metrics are served.

        An APIService whose server is not there yet is looked at again only after half a minute.
        """
        if self._applied:
            return
        for image, program, called in IMAGES.values():
            import_program(self.cluster, image, program, called=called)
        definitions, documents = list(_documents("crd/bases")), [d for part in PARTS for d in _documents(part)]
        self._apply(*definitions, *(d for d in documents if d["kind"] not in ("Deployment", "APIService")))
        self._apply(self._certificates())
        addresses = self._addresses()
        self._apply(*(_deployment(d, addresses) for d in documents if d["kind"] == "Deployment"))
        for name in IMAGES:
            self.cluster.kubectl("rollout", "status", f"deployment/{name}", "-n", NAMESPACE, "--timeout=120s")
        self._apply(*(self._trusting(d) for d in documents if d["kind"] == "APIService"))
        self.cluster.kubectl("wait", "--for=condition=Available", f"apiservice/{API}", "--timeout=60s")

    def remove(self) -> None:
        """Once no ScaledObject is left: KEDA's finalizer would keep it, and its namespace, for ever."""
        if not self._applied:
            return
        wait_until(lambda: not self.scaled_objects(), "no ScaledObject is left", seconds=120)
        # The APIService goes first: while it has no server, no namespace can be deleted.
        names = json.dumps({"apiVersion": "v1", "kind": "List", "items": self._applied[::-1]})
        self.cluster.kubectl("delete", "--ignore-not-found", "--wait=true", "-f", "-", stdin=names)
        self._applied.clear()

    def scaled_objects(self) -> list[Document]:
        found: list[Document] = get_json(self.cluster, "scaledobjects", "-A")["items"]
        return found

    def story(self) -> str:
        """Ends of the logs, for the report of a test that failed."""
        logs = (
            self.cluster.kubectl("logs", f"deployment/{n}", "-n", NAMESPACE, "--tail=25", check=False) for n in IMAGES
        )
        return "\n".join(done.stdout + done.stderr for done in logs)

    def _apply(self, *documents: Document) -> None:
        self._applied += documents
        apply(self.cluster, *documents)

    @property
    def _authority(self) -> Authority:
        return Authority(self.cluster.run / "keda-pki")

    def _certificates(self) -> Document:
        authority = self._authority
        names = [f"{service}.{NAMESPACE}.svc" for service in (OPERATOR, ADAPTER)]
        certificate, key = authority.issue("tls", "keda", addresses=names)
        files = {"ca.crt": authority.certificate, "tls.crt": certificate, "tls.key": key}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "kedaorg-certs", "namespace": NAMESPACE},
            "data": {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()},
        }

    def _trusting(self, service: Document) -> Document:
        bundle = base64.b64encode(self._authority.certificate.read_bytes()).decode()
        return {**service, "spec": {**service["spec"], "caBundle": bundle}}

    def _addresses(self) -> dict[str, str]:
        """Names that the pods of KEDA resolve -> addresses."""
        services = ((OPERATOR, NAMESPACE), (f"{RELEASE}-metrics", OPERATOR_NAMESPACE))
        found = ((name, space, get_json(self.cluster, "service", name, "-n", space)) for name, space in services)
        return {f"{name}.{space}.svc": service["spec"]["clusterIP"] for name, space, service in found}


def _documents(part: str) -> Iterator[Document]:
    binary("keda-operator")
    for file in sorted((KEDA_MODULE.folder / "keda-config" / part).glob("*.yaml")):
        if file.name != "kustomization.yaml":
            yield from filter(None, yaml.safe_load_all(file.read_text()))


def _deployment(document: Document, addresses: Mapping[str, str]) -> Document:
    """With our image, names, certificates, and probes that do not wait for slower machines."""
    pod = document["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    image, _, _ = IMAGES[document["metadata"]["name"]]
    probes = {name: {**container[name], "initialDelaySeconds": 0, "periodSeconds": 1} for name in ("readinessProbe",)}
    changed = {
        **container,
        **probes,
        "image": image,
        "imagePullPolicy": "Never",
        "args": _arguments(document, addresses),
    }
    aliases = [{"ip": address, "hostnames": [name]} for name, address in addresses.items()]
    pod |= {"containers": [changed], "hostAliases": aliases}
    return document


def _arguments(document: Document, addresses: Mapping[str, str]) -> list[str]:
    (container,) = document["spec"]["template"]["spec"]["containers"]
    if document["metadata"]["name"] == OPERATOR:
        return [argument.replace("rotation=true", "rotation=false") for argument in container["args"]]
    # By its address: gRPC asks DNS for more than a name's address.
    name = f"{OPERATOR}.{NAMESPACE}.svc"
    service = [f"--metrics-service-address={addresses[name]}:9666", f"--metrics-service-grpc-authority={name}"]
    return [*container["args"], *service]
