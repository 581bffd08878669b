"""Engine updates on a real API server: what an upgrade of the operator does not change, and what is taken later."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import SETTINGS, a_flash_object
from flash_contracts.names import KIND
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.plan import ObjectRef
from flash_operator.core.resources.deployment import deployment
from flash_operator.core.resources.drift import with_hash
from flash_operator.core.resources.revision import revision_of
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.update_turn import UpdateTurn
from runtime_site import Site

pytestmark = pytest.mark.apiserver

FORMER: dict[str, Any] = json.loads((Path(__file__).parents[1] / "unit/core/former_pod_templates.json").read_text())[
    "placed"
]
UPGRADED = replace(SETTINGS, engine_image="registry.example/flash/engine:2")


async def a_deployment_of_the_former_operator(site: Site) -> FlashKey:
    """As the operator at commit aa04336 left it on this API server."""
    key = site.apply_flash(**FORMER["spec"])
    flash = FlashDeployment.from_object(site.get("dsf", "flash"))
    await site.cluster.apply(with_hash(deployment(flash, FORMER["template"])))
    rollout = {"state": "Settled", "revision": revision_of(FORMER["template"])}
    await site.cluster.apply_status(
        site.namespace, "flash", {"observedGeneration": flash.generation, "rollout": rollout}
    )
    return key


async def test_an_upgrade_changes_no_template_and_comes_to_rest(site: Site) -> None:
    key = await a_deployment_of_the_former_operator(site)
    before = site.get("deployment", "flash")

    with site.operator(UPGRADED):
        await site.reconcile(key)
        await site.reconcile(key)

        assert site.get("deployment", "flash")["spec"] == before["spec"]
        assert await site.reconcile(key) == 0
    update = site.get("dsf", "flash")["status"]["update"]
    assert update["state"] == "Available"
    assert f"engine image: {SETTINGS.engine_image} -> {UPGRADED.engine_image}" in update["changes"]


async def test_the_update_is_taken_when_the_user_names_it(site: Site) -> None:
    key = await a_deployment_of_the_former_operator(site)
    with site.operator(UPGRADED):
        await site.reconcile(key)
        name = site.get("dsf", "flash")["status"]["update"]["revision"]
        site.apply_flash(**FORMER["spec"], rollout={"acceptUpdate": name})
        await site.reconcile(key)

        template = site.get("deployment", "flash")["spec"]["template"]
        assert {container["image"] for container in template["spec"]["containers"]} == {UPGRADED.engine_image}
        await site.reconcile(key)
        assert await site.reconcile(key) == 0
    kept = [item["metadata"]["name"] for item in site.get("controllerrevisions")["items"]]
    assert kept == [f"flash-{revision_of(template)}"]


async def test_nobody_can_change_the_stored_template(site: Site) -> None:
    key = site.apply_flash()
    await site.reconcile(key)
    (stored,) = site.get("controllerrevisions")["items"]
    patch = json.dumps({"data": {"engineImage": "registry.example/evil:1"}})
    done = site.server.kubectl(
        "patch", "controllerrevision", stored["metadata"]["name"], "-n", site.namespace, "--type=merge", "-p", patch,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "immutable" in done.stderr


async def test_only_the_pod_of_this_uid_is_evicted(site: Site) -> None:
    site.server.kubectl("-n", site.namespace, "create", "serviceaccount", "default", check=False)
    spec = {"containers": [{"name": "engine", "image": "x"}], "automountServiceAccountToken": False}
    site.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": site.namespace}, "spec": spec}
    )
    uid = site.get("pod", "p")["metadata"]["uid"]

    assert not await site.cluster.evict(ObjectRef("Pod", site.namespace, "p", "another-uid"))
    assert site.get("pod", "p")["metadata"]["uid"] == uid
    assert await site.cluster.evict(ObjectRef("Pod", site.namespace, "p", uid))
    assert site.get("pods")["items"] == []
    assert not await site.cluster.evict(ObjectRef("Pod", site.namespace, "p", uid)), "it is gone"


async def test_only_one_deployment_updates_at_a_time(site: Site) -> None:
    now = 0.0
    turn = UpdateTurn(site.cluster, site.namespace, clock=lambda: now)
    first, second = site.apply_flash("first"), site.apply_flash("second")

    assert await turn.holder(first) == str(first)
    assert await turn.holder(second) == str(first), "it was asked a moment before"
    now = 61.0
    assert await turn.holder(second) == str(second), "the first did not use its turn"
    await site.cluster.apply_status(site.namespace, "first", {"update": {"state": "Updating"}})
    assert await turn.holder(second) == str(first)
    assert await UpdateTurn(site.cluster, site.namespace).holder(second) == str(first), "a new operator knows it too"
    await site.cluster.apply_status(site.namespace, "first", {"update": {"state": "UpToDate"}})
    now = 200.0
    assert await turn.holder(second) == str(second)


async def test_a_deployment_of_another_operator_class_has_a_turn_of_its_own(site: Site) -> None:
    theirs, ours = site.apply_flash("theirs", operatorClass="canary"), site.apply_flash("ours")
    await site.cluster.apply_status(site.namespace, "theirs", {"update": {"state": "Updating"}})

    assert await UpdateTurn(site.cluster, site.namespace).holder(ours) == str(ours)
    assert await UpdateTurn(site.cluster, site.namespace, "canary").holder(theirs) == str(theirs)


async def test_the_server_takes_a_paced_deployment_and_refuses_other_words(site: Site) -> None:
    site.apply_flash(rollout={"engineUpdates": "Paced"})
    raw = a_flash_object("flash", rollout={"engineUpdates": "Sometimes"})
    raw["metadata"] = {"name": "flash", "namespace": site.namespace}
    done = site.server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(raw), check=False)
    assert done.returncode != 0
    assert "spec.rollout.engineUpdates" in done.stderr
    assert site.get("dsf", "flash")["kind"] == KIND
