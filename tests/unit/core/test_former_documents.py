"""An upgrade loses no stored document: those with former ConfigMap names are read, copied and not changed.

Operators up to commit aa04336 wrote the baseline into `NAME-history` and the last known good template into
`NAME-proven`. Without them, learned floors would be lost, and a template that was rolled back would be tried again,
which restarts engines.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import SETTINGS, a_flash, a_gate, a_node, a_pod, an_observed
from flash_contracts.names import FLOOR_ANNOTATION, REVISION_ANNOTATION
from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import desired_children, plan
from flash_operator.core.replicas.baseline import STORED_BASELINE, baseline_key
from flash_operator.core.replicas.replica import replicas_of
from flash_operator.core.resources.deployment import pod_template
from flash_operator.core.resources.identity import metadata
from flash_operator.core.resources.revision import revision_of
from flash_operator.core.rollout.rollout import STORED_LAST_KNOWN_GOOD

FORMER: dict[str, Any] = json.loads(Path(__file__).with_name("former_pod_templates.json").read_text())["placed"]
TEMPLATE: RawObject = FORMER["template"]
REVISION: str = TEMPLATE["metadata"]["annotations"][REVISION_ANNOTATION]
SPEC: dict[str, Any] = FORMER["spec"]
NEW_SPEC = {**SPEC, "engine": {**SPEC["engine"], "contextTokens": 4096}}


def former_config_map(flash: FlashDeployment, name: str, document: RawObject) -> RawObject:
    data = {f"{name}.json": json.dumps(document, indent=1)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(flash, f"{flash.name}-{name}"), "data": data}


def proven(flash: FlashDeployment) -> RawObject:
    document = {"version": 1, "revision": REVISION, "decodeTokensPerSecond": 84.0, "template": TEMPLATE}
    return former_config_map(flash, "proven", document)


def history(flash: FlashDeployment, key: str, name: str = "history") -> RawObject:
    entries = [{"pod": f"uid-{n}", "decodeTokensPerSecond": 100.0, "at": "2026-11-24T12:00:00Z"} for n in range(3)]
    return former_config_map(flash, name, {"version": 1, "classes": {key: entries}})


def a_serving_site(spec: dict[str, Any], template: RawObject = TEMPLATE, *, decoding_at: float = 85.0) -> Observed:
    """One pod of `template` serves. There are no stored documents."""
    pod = a_pod(ready=True, containerStatuses=[{"name": "engine", "imageID": "engine@sha256:aaaa"}])
    pod["metadata"]["annotations"][REVISION_ANNOTATION] = revision_of(template)
    return an_observed(
        a_flash(**spec),
        pods=(pod,),
        nodes=(a_node(gpu_link="phb", gpu_p2p="verified"),),
        gates={"flash-a": a_gate(measurement={"decodeTokensPerSecond": decoding_at})},
        live_status={"observedGeneration": 1, "rollout": {"state": "Settled", "provenRevision": REVISION}},
    )


def with_former_documents(observed: Observed, history_name: str = "history") -> Observed:
    flash = observed.flash
    (replica,) = replicas_of(observed)
    key = baseline_key(flash, replica)
    assert key is not None
    former = (proven(flash), history(flash, key, history_name))
    children = {(child["kind"], child["metadata"]["name"]): child for child in former}
    return replace(observed, children={**observed.children, **children})


def applied(observed: Observed) -> dict[str, RawObject]:
    return {f"{child['kind']} {child['metadata']['name']}": child for child in plan(observed).apply}


@pytest.mark.parametrize("former", ["history", "baseline"])
def test_an_upgrade_writes_both_documents_into_one_object_and_nothing_else(former: str) -> None:
    observed = with_former_documents(a_serving_site(SPEC), history_name=former)
    others = {
        (child["kind"], child["metadata"]["name"]): child
        for child in desired_children(a_serving_site(SPEC))
        if child["metadata"]["name"] != "flash-last-known-good"
    }
    observed = replace(observed, children={**observed.children, **others})

    written = applied(observed)

    assert set(written) == {"ConfigMap flash-last-known-good"}
    assert plan(observed).delete == ()
    documents = written["ConfigMap flash-last-known-good"]["data"]
    assert set(documents) == {"baseline.json", "last-known-good.json"}
    (entries,) = json.loads(documents["baseline.json"])["classes"].values()
    assert [entry["pod"] for entry in entries] == ["uid-0", "uid-1", "uid-2", "uid-of-flash-a"]
    last_known_good = json.loads(documents["last-known-good.json"])
    assert (last_known_good["revision"], last_known_good["template"]) == (REVISION, TEMPLATE)


def test_a_rolled_back_template_stays_rolled_back_after_an_upgrade() -> None:
    wanted = pod_template(a_flash(**NEW_SPEC), SETTINGS)
    slow = with_former_documents(a_serving_site(NEW_SPEC, wanted, decoding_at=20.0))
    rolled_back = plan(slow).status
    assert rolled_back is not None
    assert rolled_back["rollout"]["state"] == "RolledBack"

    upgraded = with_former_documents(replace(a_serving_site(NEW_SPEC), live_status=rolled_back))

    assert applied(upgraded)["Deployment flash"]["spec"]["template"] == TEMPLATE
    forgotten = replace(upgraded, children={})
    assert applied(forgotten)["Deployment flash"]["spec"]["template"] == wanted, "without the former document"


def test_a_new_pod_gets_the_floor_that_the_former_operator_learned() -> None:
    (annotation,) = plan(with_former_documents(a_serving_site(SPEC))).annotate
    assert json.loads(str(annotation.annotations[FLOOR_ANNOTATION]))["minTokensPerSecond"] == 85.0


def test_the_document_under_the_current_name_wins() -> None:
    """After a downgrade and another upgrade both exist."""
    observed = with_former_documents(a_serving_site(SPEC))
    for stored in (STORED_BASELINE, STORED_LAST_KNOWN_GOOD):
        current = stored.config_map(observed.flash, "current")
        children = {**observed.children, ("ConfigMap", current["metadata"]["name"]): current}
        assert stored.read(replace(observed, children=children)) == "current"
        assert stored.read(observed) not in (None, "current")
        assert stored.read(replace(observed, children={})) is None


def test_a_document_that_is_not_in_the_common_object_is_read_from_its_former_one() -> None:
    """The object has been written for the other document already."""
    observed = with_former_documents(a_serving_site(SPEC))
    current = STORED_LAST_KNOWN_GOOD.config_map(observed.flash, "current")
    children = {**observed.children, ("ConfigMap", current["metadata"]["name"]): current}
    assert STORED_BASELINE.read(replace(observed, children=children)) == STORED_BASELINE.read(observed) is not None


def test_nothing_is_stored_before_a_replica_has_passed_and_no_history_for_a_fixed_floor() -> None:
    assert [child for child in applied(an_observed(a_flash(**SPEC))) if "last-known-good" in child] == []
    for floor, files in (("Fixed", {"last-known-good.json"}), ("Learned", {"last-known-good.json", "baseline.json"})):
        spec = {**SPEC, "readiness": {**SPEC.get("readiness", {}), "floor": floor}}
        serving = a_serving_site(spec, pod_template(a_flash(**spec), SETTINGS))
        assert set(applied(serving)["ConfigMap flash-last-known-good"]["data"]) == files
