"""`kubectl dsf check`: each line in each of its states."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import NOON, a_node
from flashctl.checks import PERMISSIONS, CheckLine, Findings, check, operator_class, version_of

ROOT = Path(__file__).resolve().parents[2]
CRD = yaml.safe_load((ROOT / "crds/deepseekflashdeployments.yaml").read_text())
LEASE = {
    "metadata": {"name": "flash-operator", "namespace": "flash-system"},
    "spec": {"holderIdentity": "flash-x", "renewTime": NOON.isoformat()},
}
ABLE = Findings(
    now=NOON,
    server_version="v1.35.1",
    served_versions=("v1alpha1",),
    crd=CRD,
    leases=(LEASE,),
    operators=({"metadata": {"name": "flash"}},),
    labellers=({"status": {"numberReady": 2, "desiredNumberScheduled": 2}},),
    nodes=(a_node(gpu_link="phb", gpu_p2p="verified"),),
    runtime_classes=({"metadata": {"name": "nvidia"}, "handler": "nvidia"},),
    groups=frozenset({"keda.sh", "monitoring.coreos.com"}),
    rights=dict.fromkeys(PERMISSIONS, True),
)


def line(name: str, **found: Any) -> CheckLine:
    return next(one for one in check(replace(ABLE, **found)).lines if one.name == name)


def with_spec_fields(add: str = "", remove: str = "") -> dict[str, Any]:
    crd = yaml.safe_load((ROOT / "crds/deepseekflashdeployments.yaml").read_text())
    fields = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    fields.pop(remove, None)
    if add:
        fields[add] = {"type": "object"}
    return dict(crd)


def test_an_able_cluster() -> None:
    found = check(ABLE)
    assert found.able
    assert {one.level for one in found.lines} == {"ok"}


STATES = {
    "an old Kubernetes": ("Kubernetes", {"server_version": "v1.32.9"}, "missing", "upgrade to 1.33"),
    "an unreadable version": ("Kubernetes", {"server_version": "dev"}, "warning", "needs 1.33"),
    "a vendor's version": ("Kubernetes", {"server_version": "v1.35.2+k3s1"}, "ok", None),
    "no CRD": ("CRD", {"served_versions": ()}, "missing", "install the operator's chart"),
    "a newer API": ("CRD", {"served_versions": ("v1",)}, "missing", "install its plugin"),
    "an older CRD": ("CRD", {"crd": with_spec_fields(remove="scaling")}, "warning", "upgrade the chart"),
    "a newer CRD": ("CRD", {"crd": with_spec_fields(add="sparkle")}, "warning", "upgrade the plugin"),
    "a CRD that may not be read": ("CRD", {"crd": "you may not"}, "ok", None),
    "no operator": ("Operator", {"leases": (), "operators": ()}, "missing", "install the chart"),
    "an operator that never led": ("Operator", {"leases": ()}, "missing", "bring it back"),
    "an operator that may not be read": ("Operator", {"leases": "you may not"}, "warning", "administrator"),
    "no labeller": ("Labeller", {"labellers": ()}, "warning", "labeller.enabled"),
    "a labeller that fails": (
        "Labeller", {"labellers": ({"status": {"numberReady": 1, "desiredNumberScheduled": 2}},)}, "warning",
        "its pods"),
    "no GPUs": ("Nodes with two GPUs", {"nodes": ({"metadata": {"name": "n"}},)}, "missing", "device plugin"),
    "nodes that may not be read": ("Nodes with two GPUs", {"nodes": "you may not"}, "warning", "administrator"),
    "a mistyped label": ("Node labels", {"nodes": (a_node(gpu_link="fast"),)}, "warning", "correct the label"),
    "unknown links": ("Node labels", {"nodes": (a_node(),)}, "warning", "install the labeller"),
    "no runtime class, but GPUs": ("NVIDIA runtime", {"runtime_classes": ()}, "ok", None),
    "neither": ("NVIDIA runtime", {"runtime_classes": (), "nodes": ()}, "warning", "container toolkit"),
    "image volumes behind a gate": ("Image volumes", {"server_version": "v1.34.0"}, "warning", "downloaded instead"),
    "no KEDA": ("KEDA", {"groups": frozenset()}, "warning", "only if you want it"),
    "no Prometheus operator": ("Prometheus operator", {"groups": frozenset()}, "warning", "only if you want it"),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_each_state_says_what_to_do(state: str) -> None:
    name, found, level, do = STATES[state]
    one = line(name, **found)
    assert one.level == level
    assert (do in (one.do or "")) if do else one.do is None


def test_what_is_only_useful_does_not_make_a_cluster_unable() -> None:
    assert check(replace(ABLE, groups=frozenset(), labellers=(), server_version="v1.33.0")).able


@pytest.mark.parametrize("right", PERMISSIONS)
def test_a_missing_right_is_named_with_what_needs_it(right: Any) -> None:
    found = check(replace(ABLE, rights={**ABLE.rights, right: False}))
    lacking = [one for one in found.lines if one.name == "Your rights"]
    assert [one.found.startswith(f"you may not {right.verb} {right.kind}") for one in lacking] == [True]
    assert right.needed_for in str(lacking[0].do)
    assert found.able is not right.required


def test_the_minimum_is_that_of_the_chart() -> None:
    chart = yaml.safe_load((ROOT / "charts/deepseek-flash-operator/Chart.yaml").read_text())
    assert version_of(chart["kubeVersion"].removeprefix(">=")) == (1, 33)


def test_the_class_of_an_operator() -> None:
    container = {"args": ["--workers=4", "--operator-class=blue"]}
    assert operator_class({"spec": {"template": {"spec": {"containers": [container]}}}}) == "blue"
    assert operator_class({}) == ""
