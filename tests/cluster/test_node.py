"""The node behaves like a real one: identities, GPUs, network, logs, images."""

import json
import ssl
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster_fixtures import LocalCluster
from local_cluster.binaries import binary
from local_cluster.oci_archive import write_archive
from waiting import eventually
from web_pods import a_web_pod, run_pod

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.fixture
def namespace(cluster: LocalCluster, web_archive: Path) -> Iterator[str]:
    """A namespace under the strictest Pod Security level. It is deleted afterwards, without waiting."""
    cluster.import_image(web_archive)
    name = f"node-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    cluster.kubectl("delete", "pods", "--all", "-n", name, "--grace-period=1", "--wait=false")


def as_user(cluster: LocalCluster, file: str, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run kubectl with a component's own kubeconfig."""
    command = [str(cluster.kubectl_path), f"--kubeconfig={cluster.run / file}", *args]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def fetch(url: str) -> str:
    return httpx.get(url, timeout=5, trust_env=False).raise_for_status().text.strip()


@pytest.mark.parametrize(
    ("file", "user"),
    [
        ("kubelet.conf", "system:node:gpu-node-1"),
        ("kube-proxy.conf", "system:kube-proxy"),
        ("scheduler.conf", "system:kube-scheduler"),
        ("controller-manager.conf", "system:kube-controller-manager"),
    ],
)
def test_every_component_has_its_own_user_without_admin_rights(cluster: LocalCluster, file: str, user: str) -> None:
    whoami = json.loads(as_user(cluster, file, "auth", "whoami", "-o", "json").stdout)
    assert whoami["status"]["userInfo"]["username"] == user
    assert "system:masters" not in whoami["status"]["userInfo"]["groups"]
    assert as_user(cluster, file, "auth", "can-i", "*", "*", "-A").stdout.strip() == "no"


@pytest.mark.alone
def test_the_node_can_neither_list_secrets_nor_touch_another_node(cluster: LocalCluster) -> None:
    other = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"}}
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(other))
    try:
        secrets = as_user(cluster, "kubelet.conf", "get", "secrets", "-A")
        patch = as_user(cluster, "kubelet.conf", "label", "node", "other", "a=b")
        own = as_user(cluster, "kubelet.conf", "label", "node", cluster.node_name, "local-cluster.test/a=b")
    finally:
        cluster.kubectl("delete", "node", "other")
        cluster.set_node_labels({"local-cluster.test/a": None})
    assert "Forbidden" in secrets.stderr
    assert "gpu-node-1" in patch.stderr
    assert "Forbidden" in patch.stderr
    assert own.returncode == 0, own.stderr


@pytest.mark.parametrize(
    ("identity", "answer"),
    [
        pytest.param(None, 401, id="nobody"),
        pytest.param("kube-proxy", 403, id="a user without the right"),
        pytest.param("kubelet-client", 200, id="the API server"),
    ],
)
def test_the_kubelet_answers_only_authorised_clients(cluster: LocalCluster, identity: str | None, answer: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the kubelet signs its own certificate; only the client's matters here
    if identity:
        pki = cluster.run / "pki"
        context.load_cert_chain(pki / f"{identity}.crt", pki / f"{identity}.key")
    assert (
        httpx.get(f"https://{cluster.network.gateway}:10250/pods", verify=context, trust_env=False).status_code
        == answer
    )


@pytest.mark.alone
@pytest.mark.usefixtures("pair")
def test_two_gpus_go_to_one_pod_and_the_second_stays_pending(cluster: LocalCluster, namespace: str) -> None:
    run_pod(cluster, a_web_pod("first", gpus=2), namespace)
    cluster.kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(a_web_pod("second", gpus=2)))

    def reason() -> str | None:
        pod = json.loads(cluster.kubectl("get", "pod", "second", "-n", namespace, "-o", "json").stdout)
        assert pod["status"]["phase"] == "Pending"
        return next((c["message"] for c in pod["status"].get("conditions", []) if c["type"] == "PodScheduled"), None)

    assert "Insufficient nvidia.com/gpu" in eventually(reason, "the scheduler has looked at the second pod")
    cluster.kubectl("delete", "pod", "first", "-n", namespace)
    cluster.kubectl("wait", "pod/second", "-n", namespace, "--for=condition=Ready", "--timeout=30s")


@pytest.mark.alone
@pytest.mark.usefixtures("pair")
def test_gpus_survive_the_kubelets_next_node_report(cluster: LocalCluster) -> None:
    wrong = json.dumps({"status": {"capacity": {"pods": "7"}}})
    cluster.kubectl("patch", "node", cluster.node_name, "--subresource=status", "--type=merge", f"--patch={wrong}")

    def capacity() -> dict[str, str] | None:
        node = json.loads(cluster.kubectl("get", "node", cluster.node_name, "-o", "json").stdout)
        found: dict[str, str] = node["status"]["capacity"]
        return found if found["pods"] != "7" else None

    assert (
        eventually(capacity, "the kubelet has written the node's capacity again", seconds=60)["nvidia.com/gpu"] == "2"
    )


def test_a_service_is_reached_from_the_host_and_from_its_own_pod(cluster: LocalCluster, namespace: str) -> None:
    run_pod(cluster, a_web_pod("web"), namespace)
    cluster.kubectl("expose", "pod", "web", "-n", namespace, "--port=80", "--target-port=8080")
    address = cluster.kubectl("get", "service", "web", "-n", namespace, "-o=jsonpath={.spec.clusterIP}").stdout

    def answer() -> str | None:
        try:
            return fetch(f"http://{address}")
        except httpx.TransportError:
            return None  # kube-proxy has not seen the endpoint yet

    assert eventually(answer, "the cluster address answers") == "web"
    inside = cluster.kubectl("exec", "-n", namespace, "web", "--", "/web", "get", f"http://{address}")
    assert inside.stdout.strip() == "web"


def test_logs_exec_and_port_forward_work(cluster: LocalCluster, namespace: str) -> None:
    run_pod(cluster, a_web_pod("web"), namespace)

    assert cluster.kubectl("logs", "-n", namespace, "web").stdout == "serving web\n"
    inside = cluster.kubectl("exec", "-n", namespace, "web", "--", "/web", "get", "http://127.0.0.1:8080")
    assert inside.stdout == "web\n"
    command = [
        str(cluster.kubectl_path),
        f"--kubeconfig={cluster.kubeconfig}",
        "port-forward",
        "-n",
        namespace,
        "pod/web",
    ]
    with subprocess.Popen([*command, ":8080"], stdout=subprocess.PIPE, text=True) as forward:
        assert forward.stdout is not None
        local = forward.stdout.readline().split()[2]  # Forwarding from 127.0.0.1:PORT -> 8080
        assert fetch(f"http://{local}") == "web"
        forward.terminate()


def test_pod_security_refuses_a_pod_that_wants_more(cluster: LocalCluster, namespace: str) -> None:
    pod = a_web_pod("greedy")
    pod["spec"]["hostNetwork"] = True

    refused = cluster.kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(pod), check=False)

    assert 'violates PodSecurity "restricted' in refused.stderr


def test_an_image_is_imported_once_and_again_when_its_tag_moves(cluster: LocalCluster, tmp_path: Path) -> None:
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    write_archive(first, "localhost/moving:1", binary("web"))
    write_archive(second, "localhost/moving:1", binary("pause"))

    assert cluster.import_image(first) > 0
    assert cluster.import_image(first) == 0
    assert cluster.import_image(second) > 0
    assert cluster.import_image(first) > 0, "the name meant the other image meanwhile"
    cluster.containerd.ctr("images", "rm", "localhost/moving:1")


def test_node_labels_are_set_and_removed(cluster: LocalCluster) -> None:
    cluster.set_node_labels({"local-cluster.test/colour": "green"})
    assert cluster.node_labels()["local-cluster.test/colour"] == "green"

    cluster.set_node_labels({"local-cluster.test/colour": None})

    assert "local-cluster.test/colour" not in cluster.node_labels()


def test_helm_is_there_and_reaches_the_cluster(cluster: LocalCluster) -> None:
    listed = subprocess.run(
        [cluster.helm, "list", "--all-namespaces", f"--kubeconfig={cluster.kubeconfig}", "-o", "json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert isinstance(json.loads(listed.stdout), list)
