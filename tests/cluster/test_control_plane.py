"""The light form of the local cluster: any number of real API servers, each in seconds and without root."""

import json
import os
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cluster_fixtures import ControlPlane
from local_cluster.control_plane import a_light_control_plane
from local_cluster.processes import ProcessGroup
from waiting import eventually

pytestmark = pytest.mark.apiserver


def test_the_administrators_certificate_opens_the_server(api_server: ControlPlane) -> None:
    context = ssl.create_default_context(cafile=str(api_server.certificate_authority))
    context.load_cert_chain(api_server.client_certificate, api_server.client_key)
    assert httpx.get(f"{api_server.url}/version", verify=context, trust_env=False).json()["gitVersion"] == "v1.36.3"


def test_a_client_without_a_certificate_is_rejected(api_server: ControlPlane) -> None:
    context = ssl.create_default_context(cafile=str(api_server.certificate_authority))
    assert httpx.get(f"{api_server.url}/api/v1/secrets", verify=context, trust_env=False).status_code == 403


def test_rbac_refuses_a_user_without_roles_and_obeys_a_new_one(api_server: ControlPlane) -> None:
    api_server.identity("reader", "reader")

    def may_list() -> bool:
        reader = [str(api_server.kubectl_path), f"--kubeconfig={api_server.run / 'reader.conf'}"]
        done = subprocess.run([*reader, "auth", "can-i", "list", "pods"], capture_output=True, text=True, check=False)
        return done.stdout.strip() == "yes"

    assert not may_list()
    # Not a built-in role: a controller fills the aggregated ones, and the light form runs no controllers.
    api_server.kubectl("create", "clusterrole", "reader", "--verb=list", "--resource=pods")
    api_server.kubectl("create", "clusterrolebinding", "reader", "--clusterrole=reader", "--user=reader")
    eventually(may_list, "the API server has seen the binding")


def test_an_identity_made_by_another_process_is_trusted(api_server: ControlPlane) -> None:
    """Connecting to a running cluster must not replace its certificate authority."""
    again = ControlPlane(api_server.run, port=api_server.port)
    before = api_server.certificate_authority.read_bytes()

    again.identity("late", "late", groups=["system:masters"])

    late = [str(again.kubectl_path), f"--kubeconfig={again.run / 'late.conf'}", "get", "namespaces"]
    done = subprocess.run(late, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert api_server.certificate_authority.read_bytes() == before


def test_several_control_planes_run_side_by_side_and_clean_up(api_server: ControlPlane) -> None:
    second = a_light_control_plane()
    assert second.port != api_server.port
    second.kubectl("create", "namespace", "only-here")

    second.stop()

    assert second.processes.pids() == []
    assert not second.run.exists()
    assert "only-here" not in api_server.kubectl("get", "namespaces").stdout


def test_leftovers_of_a_killed_starter_are_stopped_by_the_next_one() -> None:
    script = (
        "import os, signal; from local_cluster.control_plane import a_light_control_plane; "
        "print(a_light_control_plane().run, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = dict(os.environ)
    killed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    orphaned = Path(killed.stdout.splitlines()[-1])
    assert ProcessGroup(orphaned).pids(), "they outlive their starter, or this test shows little"

    a_light_control_plane().stop()

    assert ProcessGroup(orphaned).pids() == []
    assert not orphaned.exists()


def test_api_servers_behind_it_can_tell_who_asks(api_server: ControlPlane) -> None:
    """A metrics adapter reads this authority, and otherwise takes the API server for an anonymous client."""
    place = ("configmap", "extension-apiserver-authentication", "-n", "kube-system", "-o", "json")
    published = json.loads(api_server.kubectl("get", *place).stdout)["data"]
    authority = (api_server.run / "front-proxy" / "ca.crt").read_text()
    assert published["requestheader-client-ca-file"] == authority
    assert json.loads(published["requestheader-allowed-names"]) == ["front-proxy-client"]
    assert authority != api_server.certificate_authority.read_text(), "clients must not be able to name others"
