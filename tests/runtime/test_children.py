"""Names of children that somebody else's objects have: nothing is written into them, whenever they were made."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from builders import SETTINGS, a_flash
from flash_contracts.names import DEPLOYMENT_LABEL, MANAGED_BY_LABEL
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.deployment import pod_template
from flash_operator.core.resources.gate_config import gate_config_name
from runtime_site import Site

pytestmark = pytest.mark.apiserver

GATE_CONFIG = str(gate_config_name(pod_template(a_flash(), SETTINGS)))
CONTAINER = {"name": "theirs", "image": "theirs"}
POD = {"metadata": {"labels": {"app": "theirs"}}, "spec": {"containers": [CONTAINER]}}
THEIRS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Service": ("v1", "flash", {"spec": {"ports": [{"port": 1}]}}),
    "ConfigMap": ("v1", GATE_CONFIG, {"data": {"a": "b"}}),
    "PodDisruptionBudget": ("policy/v1", "flash", {"spec": {"maxUnavailable": 1}}),
    "Deployment": ("apps/v1", "flash", {"spec": {"selector": {"matchLabels": {"app": "theirs"}}, "template": POD}}),
}


def theirs(site: Site, kind: str) -> RawObject:
    version, name, content = THEIRS[kind]
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": site.namespace},
        **content,
    }


def before_the_write(site: Site, monkeypatch: pytest.MonkeyPatch, kind: str, act: Callable[[], None]) -> None:
    """What somebody does after the operator has looked, and before it writes a child of this kind."""
    apply = site.cluster.apply

    async def after_that(desired: RawObject) -> RawObject:
        if desired["kind"] == kind:
            act()
        return await apply(desired)

    monkeypatch.setattr(site.cluster, "apply", after_that)


def assert_left_alone(site: Site, kind: str, before: RawObject) -> None:
    name = THEIRS[kind][1]
    assert site.get(kind, name) == before
    ready = site.get("dsf", "flash")["status"]["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("False", "NameTaken")
    assert f"{kind} {name} exists already and has no owner, so it is left alone" in ready["message"]
    made = site.get("deployments", "-l", f"{DEPLOYMENT_LABEL}=flash")["items"]
    assert made == [], "engines without one of their other objects would use GPUs for nothing"


@pytest.mark.parametrize("kind", THEIRS)
async def test_an_object_of_somebody_else_is_neither_changed_nor_adopted(site: Site, kind: str) -> None:
    site.apply(theirs(site, kind))
    before = site.get(kind, THEIRS[kind][1])
    key = site.apply_flash(replicas=2)
    await site.reconcile(key)
    assert_left_alone(site, kind, before)

    site.server.kubectl("delete", kind, THEIRS[kind][1], "-n", site.namespace)
    await site.reconcile(key)
    assert site.get("deployment", "flash")["spec"]["replicas"] == 2


@pytest.mark.parametrize("kind", THEIRS)
async def test_an_object_that_is_made_between_the_look_and_the_write_is_left_alone(
    site: Site, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = site.apply_flash(replicas=2)
    made: list[RawObject] = []

    def make() -> None:
        site.apply(theirs(site, kind))
        made.append(site.get(kind, THEIRS[kind][1]))

    before_the_write(site, monkeypatch, kind, make)
    await site.reconcile(key)
    assert_left_alone(site, kind, made[0])


async def test_an_object_that_takes_the_place_of_a_child_before_a_write_is_left_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator knows its own Service; when it writes, another one has the name."""
    key = site.apply_flash()
    await site.reconcile(key)
    site.server.kubectl("-n", site.namespace, "patch", "service/flash", "--type=json", "-p", OTHER_PORT)
    made: list[RawObject] = []

    def replace() -> None:
        site.server.kubectl("delete", "service", "flash", "-n", site.namespace)
        site.apply(theirs(site, "Service"))
        made.append(site.get("service", "flash"))

    before_the_write(site, monkeypatch, "Service", replace)
    await site.reconcile(key)
    assert site.get("service", "flash") == made[0]
    assert site.get("dsf", "flash")["status"]["conditions"][0]["reason"] == "NameTaken"


OTHER_PORT = json.dumps([{"op": "replace", "path": "/spec/ports/0/port", "value": 1}])


async def test_a_child_that_is_deleted_before_a_write_is_made_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = site.apply_flash()
    await site.reconcile(key)
    site.server.kubectl("-n", site.namespace, "patch", "service/flash", "--type=json", "-p", OTHER_PORT)
    names = ["flash"]

    def delete_once() -> None:
        while names:
            site.server.kubectl("delete", "service", names.pop(), "-n", site.namespace)

    before_the_write(site, monkeypatch, "Service", delete_once)
    await site.reconcile(key)
    assert site.get("service", "flash")["spec"]["ports"][0]["port"] == 8000


async def test_a_child_that_lost_our_labels_gets_them_back(site: Site) -> None:
    """It is not in the lists that go by label any more, and it is still this deployment's."""
    key = site.apply_flash()
    await site.reconcile(key)
    site.server.kubectl("-n", site.namespace, "label", "service/flash", f"{MANAGED_BY_LABEL}-", f"{DEPLOYMENT_LABEL}-")
    uid = site.get("service", "flash")["metadata"]["uid"]
    await site.reconcile(key)
    service = site.get("service", "flash")["metadata"]
    assert (service["labels"][DEPLOYMENT_LABEL], service["uid"]) == ("flash", uid)


async def test_a_field_that_is_given_up_after_creation_is_removed(site: Site) -> None:
    """Children are created by an apply: fields of a POST would stay for ever."""
    key = site.apply_flash(placement={"nodeSelector": {"a": "b"}})
    await site.reconcile(key)
    managers = site.get("deployment", "flash", "--show-managed-fields")["metadata"]["managedFields"]
    assert [(entry["manager"], entry["operation"]) for entry in managers] == [("flash-operator", "Apply")]
