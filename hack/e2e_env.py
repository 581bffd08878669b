"""Prepares a cluster for the demo and the end-to-end tests: images, tiny models and the chart on a running cluster.

Works on anything that has a kubeconfig and can be given an image archive; the local cluster and kind both can.
"""

import json
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from flash_contracts.names import GROUP, PLURAL
from waiting import eventually

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "deepseek-flash-operator"
RELEASE = "deepseek-flash-operator"
OPERATOR_NAMESPACE = "deepseek-flash-system"
RESOURCE = f"{PLURAL}.{GROUP}"

LOOK_SECONDS = 0.5
"""Seconds between calls of kubectl, which are more expensive than reading a file."""

wait_until = partial(eventually, pause=LOOK_SECONDS)


class Cluster(Protocol):
    """What these functions need of a cluster."""

    @property
    def kubeconfig(self) -> Path: ...

    @property
    def helm(self) -> Path: ...

    @property
    def kubectl_path(self) -> Path: ...

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]: ...


def get_json(cluster: Cluster, *args: str) -> dict[str, Any]:
    """`kubectl get ARGS -o json`, parsed."""
    document: dict[str, Any] = json.loads(cluster.kubectl("get", *args, "-o", "json").stdout)
    return document


def apply(cluster: Cluster, *objects: dict[str, Any]) -> None:
    """Apply objects server-side with strict field validation, as a careful user would."""
    bundle = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    cluster.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(bundle))


STORY_LINES = 25


def install_operator(cluster: Cluster, image: Path, *, chart: Path = CHART, **more: str) -> None:
    """Install the chart with real helm, and wait until the operator of that image archive is ready.

    Tests set node labels themselves, so the labeller and p2p tests are off by default. Keyword arguments set values:
    `labeller__enabled="true"`.
    """
    values = {
        "image.repository": "localhost/flash/operator",
        "image.tag": "dev",
        "image.pullPolicy": "Never",
        # Tests take "the operator" away, and read its log.
        "replicas": "1",
        # The tag is the same for every build, so this annotation makes a new image start a new pod.
        "podAnnotations.image-archive": image.stem,
        # Six tests in parallel use most of two cores, and an operator without CPU time for 10 s loses its lease.
        "resources.requests.cpu": "250m",
        "labeller.enabled": "false",
        **({"p2pTest.enabled": "false"} if chart == CHART else {}),
        **{key.replace("__", "."): value for key, value in more.items()},
    }
    settings = [f"--set={key}={value}" for key, value in values.items()]
    place = ["--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--kubeconfig", str(cluster.kubeconfig)]
    command = [str(cluster.helm), "upgrade", "--install", RELEASE, str(chart), *place, "--wait", "--timeout", "120s"]
    done = subprocess.run([*command, *settings], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"helm upgrade --install ended with {done.returncode}: {done.stderr.strip()}")


def clear_node(cluster: Cluster) -> None:
    """Removes our labels and annotations from the nodes."""
    for node in get_json(cluster, "nodes")["items"]:
        metadata = node["metadata"]
        for verb, there in (("label", metadata["labels"]), ("annotate", metadata.get("annotations", {}))):
            ours = [f"{name}-" for name in there if name.startswith("deepseekflash.dev/")]
            if ours:
                cluster.kubectl(verb, "node", metadata["name"], *ours)


def operator_pods(cluster: Cluster) -> list[dict[str, Any]]:
    """Includes terminating pods."""
    selector = "app.kubernetes.io/name=deepseek-flash-operator"
    pods: list[dict[str, Any]] = get_json(cluster, "pods", "-n", OPERATOR_NAMESPACE, "-l", selector)["items"]
    return pods


def the_operator(cluster: Cluster) -> dict[str, Any]:
    """Its only pod, once those before it are gone: helm does not wait for them."""

    def alone() -> dict[str, Any] | None:
        pods = operator_pods(cluster)
        return pods[0] if len(pods) == 1 and "deletionTimestamp" not in pods[0]["metadata"] else None

    return wait_until(alone, "there is one operator", seconds=60)


def operator_story(cluster: Cluster) -> str:
    """The operator's restarts and the ends of its logs, for the report of a test that failed."""
    lines = []
    for pod in operator_pods(cluster):
        name = pod["metadata"]["name"]
        restarts = sum(status["restartCount"] for status in pod["status"].get("containerStatuses", []))
        lines.append(f"{name}: {pod['status'].get('phase')}, {restarts} restarts")
        for previous in ("true", "false") if restarts else ("false",):
            logs = ("logs", name, "-n", OPERATOR_NAMESPACE, f"--tail={STORY_LINES}", f"--previous={previous}")
            lines += [f"log, previous={previous}:", cluster.kubectl(*logs, check=False).stdout]
    return "\n".join(lines)


def a_restricted_namespace(name: str) -> dict[str, Any]:
    """Creates a namespace with the strictest Pod Security level, under which engine pods must run."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def model_claim(namespace: str, folder: str, name: str = "tiny-model") -> tuple[dict[str, Any], dict[str, Any]]:
    """A read-only volume over a folder of the node, and the claim that a `pvc://` source names."""
    volume_name = f"{namespace}-{name}"
    size = {"storage": "1Gi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume_name, "labels": {"flash-e2e": namespace}},
        "spec": {
            "capacity": size,
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": folder, "type": "Directory"},
            "claimRef": {"namespace": namespace, "name": name},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "volumeName": volume_name,
            "resources": {"requests": size},
        },
    }
    return volume, claim


def condition_of(flash: dict[str, Any], name: str) -> dict[str, Any]:
    """The condition of a DeepSeekFlashDeployment; empty if it has none of this type."""
    conditions: list[dict[str, Any]] = flash.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == name), {})


@dataclass(frozen=True)
class Flash:
    """One DeepSeekFlashDeployment, as its owner sees it."""

    cluster: Cluster
    namespace: str
    name: str

    def object(self) -> dict[str, Any]:
        return get_json(self.cluster, RESOURCE, self.name, "-n", self.namespace)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.object().get("status", {})
        return status

    def condition(self, name: str) -> dict[str, Any]:
        """One condition, or an empty one while the operator has not written any."""
        return condition_of(self.object(), name)

    def pods(self) -> list[dict[str, Any]]:
        """The pods that are not terminating."""
        selector = f"deepseekflash.dev/deployment={self.name}"
        pods = get_json(self.cluster, "pods", "-n", self.namespace, "-l", selector)["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def pod(self) -> dict[str, Any]:
        """The only pod."""
        (pod,) = self.pods()
        return pod

    def endpoints(self) -> list[str]:
        """Addresses that the Service sends requests to."""
        selector = f"kubernetes.io/service-name={self.name}"
        slices = get_json(self.cluster, "endpointslices", "-n", self.namespace, "-l", selector)["items"]
        ready = [e for s in slices for e in s.get("endpoints") or [] if e["conditions"].get("ready")]
        return sorted(address for endpoint in ready for address in endpoint["addresses"])

    def address(self) -> str:
        """The Service's cluster address, which kube-proxy also serves to the host."""
        service = get_json(self.cluster, "service", self.name, "-n", self.namespace)
        return f"http://{service['spec']['clusterIP']}:8000"

    def wait_for(self, condition: str, status: str, *reasons: str, seconds: float = 300) -> dict[str, Any]:
        """Wait until a condition has this status (and one of these reasons), for the newest generation."""

        def look() -> dict[str, Any] | None:
            flash = self.object()
            found = condition_of(flash, condition)
            right = found.get("status") == status and (not reasons or found.get("reason") in reasons)
            current = found.get("observedGeneration") == flash["metadata"]["generation"]
            return found if right and current else None

        what = f"{self.name}: {condition} {status} {reasons}"
        return eventually(
            look, what, seconds=seconds, pause=LOOK_SECONDS, seen=lambda: json.dumps(self.status(), indent=1)
        )
