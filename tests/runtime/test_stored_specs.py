"""Deployments that were stored before the CRD had the rules and bounds of today."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import yaml

from builders import SETTINGS, a_flash_object
from cluster_fixtures import ControlPlane
from custom_resource import CRD, install_crd
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.keys import FlashKey
from runtime_site import Site
from waiting import eventually

pytestmark = pytest.mark.apiserver

CHECKS = {"x-kubernetes-validations", "pattern", "maxLength", "minLength", "maximum", "minimum", "maxItems", "enum"}
TOO_SHORT = {"engine": {"contextTokens": 128}, "readiness": {"decodeTokens": 256}}
SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "of-a-list": (
        {"engine": {"extraArgs": ["--port=9"]}},
        "spec.engine.extraArgs: Invalid value: --port is not",
    ),
    "of-a-section": ({"engine": {"profile": "Custom"}}, "spec.engine.profile: Invalid value: profile Custom"),
    "of-the-spec": (TOO_SHORT, "spec.readiness.decodeTokens: Invalid value: readiness.decodeTokens must"),
    "pattern": ({"model": {"source": "pvc://a b"}}, 'spec.model.source: Invalid value: "pvc://a b"'),
    "number": ({"engine": {"memoryPercent": 120}}, "spec.engine.memoryPercent: Invalid value: 120"),
    "items": ({"engine": {"extraArgs": ["--seed=1"] * 33}}, "spec.engine.extraArgs: Too many: 33"),
}
OTHER_FIELDS = {"replicas": 2, "drain": {"timeoutSeconds": 77}, "readiness": {"samples": 5}}


def without_checks(schema: Any, *, named: bool = False) -> Any:
    """`named`: the keys are names of fields."""
    if isinstance(schema, list):
        return [without_checks(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: part for key, part in schema.items() if named or key not in CHECKS}
    return {key: without_checks(part, named=not named and key == "properties") for key, part in kept.items()}


@contextmanager
def former_crd(server: ControlPlane) -> Iterator[None]:
    """The CRD as it was when it checked nothing; that of today afterwards."""

    def takes(spec: dict[str, Any]) -> bool:
        raw = a_flash_object(**spec)
        raw["metadata"] = {"name": "asked", "namespace": "default"}
        asked = ("create", "--dry-run=server", "-f", "-")
        return server.kubectl(*asked, stdin=json.dumps(raw), check=False).returncode == 0

    unknown = {"engine": {"profile": "Custom"}, "readiness": {"samples": 1000}}
    server.kubectl(
        "apply", "--server-side", "-f", "-", stdin=json.dumps(without_checks(yaml.safe_load(CRD.read_text())))
    )
    try:
        eventually(lambda: takes(unknown), "the former CRD is served")
        yield
    finally:
        install_crd(server)
        eventually(lambda: not takes(unknown), "the CRD of today is served")


def store(site: Site, specs: dict[str, dict[str, Any]]) -> list[FlashKey]:
    """Deployments that the operator served already when the CRD was upgraded, by name."""
    with former_crd(site.server):
        keys = [site.apply_flash(name, **spec) for name, spec in specs.items()]
        for key in keys:
            write_status(site, key, observedGeneration=1)
    return keys


def write_status(site: Site, key: FlashKey, **status: Any) -> None:
    patch = ("--type=merge", "--subresource=status", "-p", json.dumps({"status": status}))
    site.server.kubectl("patch", "dsf", key.name, "-n", key.namespace, *patch)


def change(site: Site, key: FlashKey, spec: dict[str, Any]) -> str:
    """The error, or nothing."""
    patch = ("--type=merge", "-p", json.dumps({"spec": spec}))
    return site.server.kubectl("patch", "dsf", key.name, "-n", key.namespace, *patch, check=False).stderr


def valid(site: Site, key: FlashKey) -> dict[str, Any]:
    conditions = site.get("dsf", key.name)["status"]["conditions"]
    return next((condition for condition in conditions if condition["type"] == "SpecValid"), {})


async def test_a_stored_spec_is_served_and_what_it_breaks_is_told(site: Site) -> None:
    keys = store(site, {name: spec for name, (spec, _) in SPECS.items()})
    for key, (_, message) in zip(keys, SPECS.values(), strict=True):
        for _ in range(2):
            await site.reconcile(key)
        assert site.get("deployment", key.name)["spec"]["replicas"] == 1
        found = valid(site, key)
        assert (found["status"], found["reason"]) == ("False", "SpecRefused"), key
        assert message in found["message"]
        assert await site.reconcile(key) == 0


async def test_an_upgrade_of_the_crd_is_noticed_while_the_operator_runs(site: Site) -> None:
    """Its schema has another hash then, which an account without any role may read."""
    newer = await site.cluster.schema_version()
    with former_crd(site.server):
        key = site.apply_flash("flash", **SPECS["of-the-spec"][0])
        deadline = time.monotonic() + 30
        while await site.cluster.schema_version() == newer:
            assert time.monotonic() < deadline, "the API server describes the newer CRD still"
            await asyncio.sleep(0.2)
        await site.look_at_crd()
        await site.reconcile(key)
        assert valid(site, key) == {}

    deadline = time.monotonic() + 30
    while valid(site, key).get("reason") != "SpecRefused":
        assert time.monotonic() < deadline, "the stored spec is not reviewed again"
        await site.look_at_crd()
        await site.reconcile(key)
        await asyncio.sleep(0.2)
    before = site.cluster.reads
    await site.look_at_crd()
    assert site.cluster.reads == before + 1
    reader = ("get", "--raw", "/openapi/v3", "--as=system:serviceaccount:any:body", "--as-group=system:authenticated")
    assert site.server.kubectl(*reader).returncode == 0


async def test_other_fields_of_a_stored_spec_can_be_changed(site: Site) -> None:
    for key in store(site, {name: spec for name, (spec, _) in SPECS.items()}):
        assert "is invalid" not in change(site, key, OTHER_FIELDS), key
        site.server.kubectl("scale", f"dsf/{key.name}", "--replicas=3", "-n", site.namespace)
        assert site.get("dsf", key.name)["spec"]["replicas"] == 3
        write_status(site, key, replicas=7)
        site.server.kubectl("delete", "dsf", key.name, "-n", site.namespace)


async def test_a_field_that_breaks_a_rule_can_only_be_corrected(site: Site) -> None:
    (key,) = store(site, {"flash": TOO_SHORT})
    for _ in range(2):
        await site.reconcile(key)
    assert "lower decodeTokens" in change(site, key, {"engine": {"contextTokens": 64}})
    assert change(site, key, {"readiness": {"decodeTokens": 64}}) == ""
    for _ in range(2):
        await site.reconcile(key)
    assert (valid(site, key)["status"], valid(site, key)["reason"]) == ("True", "SpecAccepted")


async def test_an_unchanged_manifest_can_be_applied_again(site: Site) -> None:
    spec: dict[str, Any] = {**TOO_SHORT, "model": {"source": "pvc://a b"}}
    store(site, {"flash": spec})
    site.apply_flash(**spec)
    assert site.get("dsf", "flash")["metadata"]["generation"] == 1


async def test_the_status_of_a_stored_name_that_is_refused_now_can_be_written(site: Site) -> None:
    for key in store(site, {"4.flash": {}, "x" * 53: {}}):
        write_status(site, key, replicas=7)
        assert site.get("dsf", key.name)["status"]["replicas"] == 7


async def test_what_the_operator_cannot_understand_is_told_and_changes_nothing(site: Site) -> None:
    (key,) = store(site, {"flash": {"engine": {"profile": "Tomorrow"}}})
    await site.reconcile(key)
    assert valid(site, key)["reason"] == "SpecUnreadable"
    assert "spec.engine.profile: Input should be" in valid(site, key)["message"]
    assert site.get("deployment")["items"] == []
    assert await site.reconcile(key) == 0


@pytest.mark.parametrize(("restarts", "questions"), [(False, 0), (True, 1)], ids=["new", "known to a former operator"])
async def test_a_deployment_is_asked_about_once_by_each_operator_that_finds_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, *, restarts: bool, questions: int
) -> None:
    asked = 0
    question = site.cluster.objection

    async def objection(raw: RawObject) -> str:
        nonlocal asked
        asked += 1
        return await question(raw)

    monkeypatch.setattr(site.cluster, "objection", objection)
    key = site.apply_flash()
    await site.reconcile(key)
    with site.operator(SETTINGS) if restarts else nullcontext():
        for _ in range(2):
            await site.reconcile(key)
    assert asked == questions
    assert valid(site, key) == {}
