"""An upgrade of the operator restarts no engine, whatever the new one would start.

`former_pod_templates.json` holds specs and the pod templates that the operator at commit aa04336 made of them. The
Deployment controller replaces pods only when the template changes.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import SETTINGS, a_flash, a_gate, a_node, a_pod, an_observed, condition
from flash_contracts.names import REVISION_ANNOTATION
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import desired_children, plan
from flash_operator.core.resources.deployment import pod_template
from flash_operator.core.resources.engine_resources import without_default_requests
from flash_operator.core.resources.identity import metadata
from flash_operator.core.resources.revision import with_revision
from flash_operator.core.resources.strategic_merge import merge
from flash_operator.core.rollout.template_revision import TemplateRevision, render, same_effect

FORMER: dict[str, Any] = json.loads(Path(__file__).with_name("former_pod_templates.json").read_text())
REQUESTED = {"engine resources requests cpu", "engine resources requests memory"}
GPUS = {"resources": {"claims": [{"name": "nic"}], "limits": {"nvidia.com/gpu": "2"}}}
UPGRADED = replace(SETTINGS, engine_image="registry.example/flash/engine:2")


def a_former_site(name: str, *, served_by_api_server: bool = False, **rollout: Any) -> Observed:
    """A deployment of the operator at aa04336, as the current operator finds it."""
    template = FORMER[name]["template"]
    return a_site(a_flash(**FORMER[name]["spec"]), as_stored(template) if served_by_api_server else template, **rollout)


def a_site(flash: FlashDeployment, template: RawObject, **rollout: Any) -> Observed:
    """A deployment whose replica runs with this template."""
    revision = template["metadata"]["annotations"][REVISION_ANNOTATION]
    pod = a_pod(ready=True)
    pod["metadata"]["annotations"][REVISION_ANNOTATION] = revision
    live = {
        "kind": "Deployment",
        "metadata": {**metadata(flash, flash.name), "generation": 1},
        "spec": {"template": template},
        "status": {"observedGeneration": 1, "updatedReplicas": 1},
    }
    status = {"observedGeneration": 1, "rollout": {"state": "Settled", "revision": revision, **rollout}}
    return an_observed(
        flash,
        pods=(pod,),
        nodes=(a_node(gpu_link="phb", gpu_p2p="verified"),),
        gates={"flash-a": a_gate()},
        children=(live,),
        live_status=status,
    )


def as_stored(template: RawObject) -> RawObject:
    """Defaults that the API server adds to a template."""
    spec = {**template["spec"], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst"}
    return {"metadata": {**template["metadata"], "creationTimestamp": None}, "spec": spec}


def applied_template(observed: Observed) -> RawObject:
    (made,) = [child for child in desired_children(observed) if child["kind"] == "Deployment"]
    template: RawObject = made["spec"]["template"]
    return template


@pytest.mark.parametrize("settings", [SETTINGS, UPGRADED], ids=["same image", "newer image"])
@pytest.mark.parametrize("name", sorted(set(FORMER) - {"restored-head"}))
def test_the_template_of_the_former_operator_stays(name: str, settings: Any) -> None:
    observed = replace(a_former_site(name), settings=settings)
    assert applied_template(observed) == FORMER[name]["template"]
    assert applied_template(replace(a_former_site(name, served_by_api_server=True), settings=settings)) == {
        "metadata": FORMER[name]["template"]["metadata"],
        "spec": as_stored(FORMER[name]["template"])["spec"],
    }


@pytest.mark.parametrize("name", FORMER)
def test_it_starts_the_same_engine_as_the_current_template_but_for_the_requests(name: str) -> None:
    flash = a_flash(**FORMER[name]["spec"])
    ours = without_default_requests(render(flash, SETTINGS).template, flash.spec)
    assert same_effect(ours, FORMER[name]["template"])


@pytest.mark.parametrize("name", sorted(set(FORMER) - {"restored-head"}))
def test_server_defaults_are_not_an_update(name: str) -> None:
    status = plan(a_former_site(name, served_by_api_server=True)).status
    assert status is not None
    assert status["update"]["state"] == "Available", "the engine's requests, which are a default of ours"
    assert {change.partition(":")[0] for change in status["update"]["changes"]} == REQUESTED


@pytest.mark.parametrize("stored", [False, True])
def test_the_newer_image_is_offered(*, stored: bool) -> None:
    status = plan(replace(a_former_site("placed", served_by_api_server=stored), settings=UPGRADED)).status
    assert status is not None
    assert status["update"]["state"] == "Available"
    assert condition(status, "UpdateAvailable")["status"] == "True"
    assert set(status["update"]["changes"]) == {
        *(f"{container} image: {SETTINGS.engine_image} -> {UPGRADED.engine_image}" for container in ("gate", "engine")),
        "engine resources requests cpu: none -> 4",
        "engine resources requests memory: none -> 32Gi",
    }


def test_the_former_template_is_stored_with_the_image_and_the_contract_of_its_time() -> None:
    observed = replace(a_former_site("placed"), settings=UPGRADED)
    (stored,) = [child for child in plan(observed).apply if child["kind"] == "ControllerRevision"]
    kept = TemplateRevision.parse(stored)
    assert kept is not None
    assert (kept.template, kept.engine_image, kept.contract_version) == (
        FORMER["placed"]["template"],
        SETTINGS.engine_image,
        1,
    )


def test_a_change_while_the_operator_was_upgraded_is_carried_out() -> None:
    """Its template differs from the former one, and the former spec is unknown."""
    changed = a_flash(generation=2, **{**FORMER["placed"]["spec"], "engine": {"contextTokens": 4096}})
    observed = replace(a_former_site("placed"), flash=changed, settings=UPGRADED)
    (engine,) = applied_template(observed)["spec"]["containers"]
    assert "4096" in str(engine["args"])
    assert engine["image"] == SETTINGS.engine_image, "a change is no reason to take the update"


def test_scaling_while_the_operator_was_upgraded_restarts_nothing() -> None:
    scaled = a_flash(generation=2, **{**FORMER["placed"]["spec"], "replicas": 3})
    observed = replace(a_former_site("placed"), flash=scaled, settings=UPGRADED)
    assert applied_template(observed) == FORMER["placed"]["template"]


def test_gpus_beside_a_claim_stay_until_the_update_is_taken() -> None:
    """Former operators asked for both, and a claim may be for something else."""
    container = {"name": "engine", "resources": {"claims": [{"name": "nic"}]}}
    flash = a_flash(podTemplate={"spec": {"containers": [container]}})
    ours = pod_template(flash, SETTINGS)
    former = with_revision(merge(ours, {"spec": {"containers": [{**container, **GPUS}]}}))
    site = a_site(flash, former)
    stored = replace(render(flash, SETTINGS), template=former).to_object(flash)
    observed = replace(site, children={**site.children, (stored["kind"], stored["metadata"]["name"]): stored})
    assert applied_template(observed) == former
    status = plan(observed).status
    assert status is not None
    assert status["update"]["state"] == "Available"
    assert status["update"]["changes"] == ["engine resources limits nvidia.com/gpu: 2 -> none"]
