"""Machines described by users: from readings of NVML and /sys to labels, test verdicts, and flags."""

import json
from pathlib import Path
from typing import Any

import pytest

from fake_node.machine import Machine, names
from fake_node.readings import read_machine
from flash_contracts.flags import FlagSet, derive
from flash_contracts.node_facts import NodeFacts
from flash_contracts.p2p_report import P2pReport
from flash_node.assessment import assess
from flash_node.dump import NodeDump
from flash_node.labels import NodeState, patch_for
from flash_node.topology.view import view_of
from flash_operator.api.v1alpha1 import InterconnectSpec
from flash_operator.core.p2p_test.node_verdict import from_p2p_test

REPORTS = {"verified": "healthy", "hang": "hang"}


@pytest.mark.parametrize("name", names())
def test_a_machine_gets_its_labels_and_flags(name: str, tmp_path: Path) -> None:
    machine = Machine.load(name)
    found = assess(read_machine(name, tmp_path))
    node = _patched(_node(name), patch_for(NodeState.of(_node(name)), found))
    labels = {k.removeprefix("deepseekflash.dev/"): v for k, v in node["metadata"]["labels"].items()}
    if machine.tested:
        text = json.dumps({"verdict": REPORTS[machine.tested], "schema": "v1-test"})
        verdict = from_p2p_test(NodeFacts.from_node(node), P2pReport.of_text(text), text)
        assert verdict
        node = _patched(node, verdict.patch())
    facts = NodeFacts.from_node(node)
    assert {
        "labels": labels,
        "warnings": [*found.warnings, *facts.warnings],
        "flags": whole(derive(facts, InterconnectSpec(), {})),
    } == machine.expected


def whole(flags: FlagSet) -> dict[str, Any]:
    """A flag set in the form of the descriptions: each flag with its source and reason."""
    return {
        "row": flags.row,
        "args": {argument.value: f"{argument.source}: {argument.reason}" for argument in flags.args},
        "env": {f"{v.name}={v.value}": f"{v.source}: {v.reason}" for v in flags.env},
        "unset": list(flags.unset),
        "conflicts": [conflict.message for conflict in flags.conflicts],
    }


def test_the_machines_cover_every_row_for_cards_without_nvlink() -> None:
    assert {Machine.load(name).expected["flags"]["row"] for name in names()} == {
        "T2", "T3", "T3b", "T4", "T5", "T6", "T7", "T8"
    }  # fmt: skip


def test_more_than_two_cards_get_a_matrix_of_pairs(tmp_path: Path) -> None:
    found = assess(read_machine("server-four-cloud", tmp_path))
    assert found.matrix
    assert json.loads(found.matrix) == [
        {"gpus": [0, 1], "link": "pix", "p2p": "granted"},
        {"gpus": [0, 2], "link": "node", "p2p": "granted"},
        {"gpus": [0, 3], "link": "node", "p2p": "granted"},
        {"gpus": [1, 2], "link": "node", "p2p": "granted"},
        {"gpus": [1, 3], "link": "node", "p2p": "granted"},
        {"gpus": [2, 3], "link": "pix", "p2p": "granted"},
    ]
    assert assess(read_machine("ws-pair-node", tmp_path / "pair")).matrix is None


def _node(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": "7"}}


def _patched(node: dict[str, Any], patch: dict[str, Any] | None) -> dict[str, Any]:
    """Apply the labels of a merge patch."""
    assert patch
    labels = {**node["metadata"].get("labels", {}), **patch["metadata"]["labels"]}
    kept = {name: value for name, value in labels.items() if value is not None}
    return {"metadata": {**node["metadata"], "labels": kept}}


DUMPS = Path(__file__).with_name("dumps")
"""Dumps that the real code took on real machines."""

READ = {
    "h100-pair-2026-11-24": {
        "gpu-link": "nvlink", "gpu-p2p": "granted", "gpu-pcie": "gen5-x16", "gpu-numa": "unknown",
        "gpu-numa-nodes": "unknown",
        "gpu-iommu": "unknown", "gpu-virt": "passthrough", "gpu-bar1": "full", "gpu-power-w": "700",
        "gpu-driver": "580.159.04", "gpu-cards": "5a2c1a6b41",
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "labels"), READ.items(), ids=READ.keys())
def test_a_real_machine_gets_its_labels_and_the_row_of_its_link_once_verified(
    name: str, labels: dict[str, str]
) -> None:
    dump = NodeDump.load(DUMPS / f"{name}.json")
    assert assess(dump).labels == labels
    assert (view_of(dump).flags.row, view_of(dump, "verified").flags.row) == ("T5", "T1")


def test_every_dump_is_tested() -> None:
    assert {file.stem for file in DUMPS.glob("*.json")} == set(READ)
