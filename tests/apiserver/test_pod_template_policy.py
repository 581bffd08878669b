"""The chart's policy for `spec.podTemplate` on a real kube-apiserver: what tenants may not make the operator create."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from builders import a_flash_object
from cluster_fixtures import ControlPlane
from rendered_chart import bundle, only, render
from waiting import eventually

pytestmark = pytest.mark.apiserver

POLICY = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
TENANT, TRUSTED = "policy-tenant", "policy-trusted"


def engine(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "engine", **fields}]}}


def context(**fields: Any) -> dict[str, Any]:
    return engine(securityContext=fields)


def volume(**source: Any) -> dict[str, Any]:
    return {"spec": {"volumes": [{"name": "more", **source}]}}


HOST = "may not use the host's network, processes or IPC"
PRIVILEGED = "may not make a container privileged or add capabilities"
ROOT_USER = "may not run a container as root"
REMOVED = "may not remove a securityContext or a part of it"
CONFINED = "may not change seccomp, AppArmor, SELinux or sysctls"
DISKS = "may not mount folders of the host"
TOKEN = "may not mount a token of a service account"  # noqa: S105 - a message
ACCOUNT = "may not name a service account"
PORT = "may not open a port of the host"
SCHEDULER = "may not bypass the scheduler"

HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "the host's network": ({"spec": {"hostNetwork": True}}, HOST),
    "the host's processes": ({"spec": {"hostPID": True}}, HOST),
    "the host's IPC": ({"spec": {"hostIPC": True}}, HOST),
    "privileged": (context(privileged=True), PRIVILEGED),
    "escalation": (context(allowPrivilegeEscalation=True), PRIVILEGED),
    "a capability": (context(capabilities={"add": ["SYS_ADMIN"]}), PRIVILEGED),
    "unmasked /proc": (context(procMount="Unmasked"), PRIVILEGED),
    "a process of a Windows host": (context(windowsOptions={"hostProcess": True}), PRIVILEGED),
    "a privileged sidecar": (
        {"spec": {"containers": [{"name": "x", "securityContext": {"privileged": True}}]}}, PRIVILEGED),
    "a privileged init container": (
        {"spec": {"initContainers": [{"name": "x", "securityContext": {"privileged": True}}]}}, PRIVILEGED),
    "root": (context(runAsUser=0), ROOT_USER),
    "root of the pod": ({"spec": {"securityContext": {"runAsUser": 0}}}, ROOT_USER),
    "may be root": ({"spec": {"securityContext": {"runAsNonRoot": False}}}, ROOT_USER),
    "no security context": ({"spec": {"securityContext": None}}, REMOVED),
    "no security context of a container": (engine(securityContext=None), REMOVED),
    "no part of it": (context(capabilities=None), REMOVED),
    "no seccomp": (context(seccompProfile={"type": "Unconfined"}), CONFINED),
    "no AppArmor": ({"spec": {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}}, CONFINED),
    "no AppArmor, as it was": (
        {"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/engine": "unconfined"}}},
        CONFINED),
    "an SELinux type": (context(seLinuxOptions={"type": "spc_t"}), CONFINED),
    "a sysctl": ({"spec": {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}}, CONFINED),
    "a folder of the host": (volume(hostPath={"path": "/"}), DISKS),
    "a disk by its address": (volume(nfs={"server": "x", "path": "/"}), DISKS),
    "a driver of the host": (volume(flexVolume={"driver": "x"}), DISKS),
    "a token": (volume(projected={"sources": [{"serviceAccountToken": {"path": "token"}}]}), TOKEN),
    "the account's token": ({"spec": {"automountServiceAccountToken": True}}, TOKEN),
    "another account": ({"spec": {"serviceAccountName": "admin"}}, ACCOUNT),
    "another account by its former name": ({"spec": {"serviceAccount": "admin"}}, ACCOUNT),
    "a host's port": (engine(ports=[{"containerPort": 80, "hostPort": 80}]), PORT),
    "a node": ({"spec": {"nodeName": "control-plane"}}, SCHEDULER),
    "the system's priority": ({"spec": {"priorityClassName": "system-node-critical"}}, SCHEDULER),
    "a list that is none": ({"spec": {"containers": {"name": "engine"}}}, "resulted in error"),
    "a context that is none": (engine(securityContext="privileged"), REMOVED),
}  # fmt: skip

SOUND: dict[str, dict[str, Any]] = {
    "labels": {"metadata": {"labels": {"team": "search"}, "annotations": {"a": "b"}}},
    "a sidecar": {"spec": {"containers": [{"name": "log", "image": "log:1", "securityContext": {"runAsUser": 1000}}]}},
    "a variable from a Secret": engine(env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
    "volumes": {"spec": {"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "a"}},
                                     {"name": "b", "configMap": {"name": "b"}}, {"name": "c", "emptyDir": {}}]}},
    "a stricter context": context(readOnlyRootFilesystem=True, capabilities={"drop": ["ALL"]}),
    "the scheduler's fields": {"spec": {"priorityClassName": "inference", "nodeSelector": {"a": "b"}}},
    "what is off anyhow": {"spec": {"hostNetwork": False, "automountServiceAccountToken": False}},
    "nothing": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def policy(crd_server: ControlPlane) -> Iterator[ControlPlane]:
    """The chart's policy in force; a tenant's namespace, and one whose administrator lifted it."""
    documents = bundle([only(render(), kind, "flash-pod-templates") for kind in POLICY])
    crd_server.kubectl("apply", "--server-side", "-f", "-", stdin=documents)
    for namespace in (TENANT, TRUSTED):
        crd_server.kubectl("create", "namespace", namespace)
    crd_server.kubectl("label", "namespace", TRUSTED, "deepseekflash.dev/pod-template=unrestricted")
    hostile = HOSTILE["privileged"][0]
    eventually(lambda: dry_run(crd_server, hostile).returncode, "the policy is in force", seconds=30)
    yield crd_server
    crd_server.kubectl("delete", "-f", "-", stdin=documents)
    crd_server.kubectl("delete", "namespace", TENANT, TRUSTED, "--wait=false")


def dry_run(
    server: ControlPlane, template: dict[str, Any], namespace: str = TENANT
) -> "subprocess.CompletedProcess[str]":
    flash = a_flash_object("flash", podTemplate=template)
    flash["metadata"] = {"name": "flash", "namespace": namespace}
    return server.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(flash), check=False)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pod_template_is_refused_with_its_reason_and_the_way_out(name: str, policy: ControlPlane) -> None:
    template, reason = HOSTILE[name]
    done = dry_run(policy, template)
    assert done.returncode != 0
    assert reason in done.stderr
    if reason != "resulted in error":
        assert "deepseekflash.dev/pod-template=unrestricted" in done.stderr


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_pod_template_is_taken(name: str, policy: ControlPlane) -> None:
    done = dry_run(policy, SOUND[name])
    assert done.returncode == 0, done.stderr


def test_where_the_administrator_lifted_it_anything_is_taken(policy: ControlPlane) -> None:
    done = dry_run(policy, HOSTILE["a folder of the host"][0], TRUSTED)
    assert done.returncode == 0, done.stderr


def test_a_tenant_cannot_lift_it_by_the_deployments_own_label(policy: ControlPlane) -> None:
    flash = a_flash_object("flash", podTemplate=HOSTILE["root"][0])
    flash["metadata"] = {
        "name": "flash", "namespace": TENANT, "labels": {"deepseekflash.dev/pod-template": "unrestricted"},
    }  # fmt: skip
    done = policy.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(flash), check=False)
    assert ROOT_USER in done.stderr
