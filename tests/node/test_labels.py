"""What the labeller writes to its node, and what it leaves to the operator and to administrators."""

from pathlib import Path
from typing import Any

import pytest

from fake_node.readings import read_machine
from flash_contracts.names import MATRIX_ANNOTATION
from flash_node.assessment import Assessment, assess, worst_link
from flash_node.dump import GpuDump, NodeDump, NumaDump, PairDump
from flash_node.labels import NodeState, patch_for

P = "deepseekflash.dev/"
REPORT = f"{P}gpu-p2p-report"
DRIVER = "595.58.03"


@pytest.fixture
def found(tmp_path: Path) -> Assessment:
    return assess(read_machine("ws-pair-node", tmp_path))


def state(labels: dict[str, str], annotations: dict[str, str] | None = None) -> NodeState:
    return NodeState({f"{P}{name}": value for name, value in labels.items()}, annotations or {}, "7")


def changed_labels(patch: dict[str, Any] | None) -> dict[str, str | None]:
    """The labels of a patch, without their prefix."""
    assert patch
    return {name.removeprefix(P): value for name, value in patch["metadata"].get("labels", {}).items()}


def test_a_bare_node_gets_every_label_and_the_resource_version_that_was_read(found: Assessment) -> None:
    patch = patch_for(state({}), found)
    assert patch
    assert changed_labels(patch) == found.labels
    assert patch["metadata"]["resourceVersion"] == "7"


def test_a_node_with_current_labels_is_not_patched(found: Assessment) -> None:
    assert patch_for(state(found.labels), found) is None


@pytest.mark.parametrize("verdict", ["verified", "hang", "corrupt"])
def test_a_tested_verdict_is_kept_while_the_driver_stays_the_same(found: Assessment, verdict: str) -> None:
    tested = {**found.labels, "gpu-p2p": verdict, "gpu-p2p-driver": DRIVER, "gpu-p2p-tested-by": "v1-3fa9c2"}
    assert patch_for(state(tested, {REPORT: "{}"}), found) is None


@pytest.mark.parametrize("verdict", ["verified", "hang", "corrupt"])
def test_a_verdict_of_another_driver_is_removed_with_its_report(found: Assessment, verdict: str) -> None:
    tested = {**found.labels, "gpu-p2p": verdict, "gpu-p2p-driver": "580.1", "gpu-p2p-tested-by": "v1-3fa9c2"}
    patch = patch_for(state(tested, {REPORT: "{}"}), found)
    assert changed_labels(patch) == {"gpu-p2p": "granted", "gpu-p2p-driver": None, "gpu-p2p-tested-by": None}
    assert patch
    assert patch["metadata"]["annotations"] == {REPORT: None}


@pytest.mark.parametrize("verdict", ["verified", "hang", "corrupt"])
@pytest.mark.parametrize(
    "change",
    [
        {"uuid": "GPU-of-another-card"},
        {"bus": "0000:c1:00.0"},
    ],
    ids=["another card", "another slot"],
)
def test_a_verdict_of_other_cards_is_removed(verdict: str, change: dict[str, str], tmp_path: Path) -> None:
    dump = read_machine("ws-pair-node", tmp_path)
    before = assess(dump)
    tested = {
        **before.labels,
        "gpu-p2p": verdict,
        "gpu-p2p-driver": DRIVER,
        "gpu-p2p-cards": before.labels["gpu-cards"],
    }
    assert patch_for(state(tested), before) is None
    after = assess(dump.model_copy(update={"gpus": (dump.gpus[0], dump.gpus[1].model_copy(update=change))}))
    assert changed_labels(patch_for(state(tested), after)) == {
        "gpu-p2p": "granted",
        "gpu-p2p-driver": None,
        "gpu-p2p-cards": None,
        "gpu-cards": after.labels["gpu-cards"],
    }


def test_a_third_card_removes_the_verdict_of_two(tmp_path: Path) -> None:
    dump = read_machine("server-four-cloud", tmp_path)
    two = dump.model_copy(update={"gpus": dump.gpus[:2], "pairs": dump.pairs[:1]})
    cards = assess(two).labels["gpu-cards"]
    tested = {**assess(two).labels, "gpu-p2p": "verified", "gpu-p2p-driver": str(dump.driver), "gpu-p2p-cards": cards}
    assert changed_labels(patch_for(state(tested), assess(dump)))["gpu-p2p"] == "granted"


def test_cards_without_uuid_and_address_are_unknown() -> None:
    assert assess(NodeDump(node="n", taken_at="", gpus=(GpuDump(index=0, bus="b"), GpuDump(index=1)))).labels[
        "gpu-cards"
    ] == ("unknown")


def test_a_verdict_that_contradicts_the_driver_is_removed(tmp_path: Path) -> None:
    refused = assess(read_machine("geforce-pair", tmp_path))
    tested = {**refused.labels, "gpu-p2p": "verified", "gpu-p2p-driver": refused.labels["gpu-driver"]}
    assert changed_labels(patch_for(state(tested), refused)) == {"gpu-p2p": "gns", "gpu-p2p-driver": None}


@pytest.mark.parametrize("verdict", ["verified", "hang"])
def test_a_verdict_without_a_driver_is_removed(found: Assessment, verdict: str) -> None:
    assert changed_labels(patch_for(state({**found.labels, "gpu-p2p": verdict}), found)) == {"gpu-p2p": "granted"}


VERDICTS = ("verified", "hang", "corrupt")


def with_verdict(found: Assessment, verdict: str) -> NodeState:
    """A node with a verdict about what `found` describes, as the operator writes it."""
    about = {"gpu-p2p": verdict, "gpu-p2p-driver": found.labels["gpu-driver"], "gpu-p2p-tested-by": "engine"}
    return state({**found.labels, **about, "gpu-p2p-cards": found.labels["gpu-cards"]}, {REPORT: "{}"})


def without_a_card(dump: NodeDump, **changes: object) -> NodeDump:
    lost = {"gpus": (dump.gpus[0], GpuDump(index=1)), "pairs": (PairDump(first=0, second=1),)}
    return dump.model_copy(update={**lost, **changes})


def lost_readings(dump: NodeDump) -> dict[str, NodeDump]:
    """Ways in which a node cannot be read for a minute."""
    pair = dump.pairs[0].model_copy(update={"p2p": (0, None, 0, 0)})
    nothing = {"gpus": (), "pairs": (), "driver": None}
    return {
        "a card is lost": without_a_card(dump),
        "a card has left the list": dump.model_copy(update={"gpus": dump.gpus[:1], "pairs": ()}),
        "the driver is being loaded": dump.model_copy(update=nothing),
        "NVML does not answer": dump.model_copy(update={**nothing, "driver": dump.driver}),
        "the driver version failed": dump.model_copy(update={"driver": None}),
        "a status failed": dump.model_copy(update={"pairs": (pair,)}),
        "the pair failed": dump.model_copy(update={"pairs": (PairDump(first=0, second=1),)}),
    }


LOSSES = (
    "a card is lost",
    "a card has left the list",
    "the driver is being loaded",
    "NVML does not answer",
    "the driver version failed",
    "a status failed",
    "the pair failed",
)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_node_that_cannot_be_read_for_a_minute_keeps_its_labels(verdict: str, loss: str, tmp_path: Path) -> None:
    dump = read_machine("ws-pair-node", tmp_path)
    before = with_verdict(assess(dump), verdict)
    assert patch_for(before, assess(lost_readings(dump)[loss])) is None
    assert patch_for(before, assess(dump)) is None, "and it needs no patch afterwards"


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize(
    "change", [{"driver": "600.1"}, {"gpus": (GpuDump(index=0, uuid="a"), GpuDump(index=1, uuid="b"))}]
)
def test_what_is_known_to_have_changed_ends_a_verdict_though_the_rest_cannot_be_read(
    verdict: str, change: dict[str, object], tmp_path: Path
) -> None:
    dump = read_machine("ws-pair-node", tmp_path)
    after = assess(without_a_card(dump, **change))
    changed = changed_labels(patch_for(with_verdict(assess(dump), verdict), after))
    assert changed["gpu-p2p"] == changed["gpu-link"] == "unknown"
    assert changed["gpu-p2p-driver"] is None


def test_a_refusal_of_the_driver_ends_a_verdict_though_a_card_has_no_name(tmp_path: Path) -> None:
    dump = read_machine("ws-pair-node", tmp_path)
    nameless = dump.gpus[1].model_copy(update={"uuid": None, "bus": None})
    refused = PairDump(first=0, second=1, ancestor=40, p2p=(5, 5, 5, 5))
    after = assess(dump.model_copy(update={"gpus": (dump.gpus[0], nameless), "pairs": (refused,)}))
    assert changed_labels(patch_for(with_verdict(assess(dump), "verified"), after))["gpu-p2p"] == "ns"


def test_unknown_replaces_what_no_labeller_writes(found: Assessment) -> None:
    blind = assess(NodeDump(node="n", taken_at=""))
    changed = changed_labels(patch_for(state({**found.labels, "gpu-link": "warp"}), blind))
    assert changed == {"gpu-link": "unknown"}


def test_numa_nodes_are_no_longer_labelled_once_they_are_known_not_to_have_cpus(tmp_path: Path) -> None:
    """This `unknown` is a finding, so it replaces what an earlier labeller wrote for the same cards."""
    dump = read_machine("ws-pair-node", tmp_path)
    memory_only = assess(dump.model_copy(update={"numa": (NumaDump(index=0, sockets=()),)}))
    assert changed_labels(patch_for(state(assess(dump).labels), memory_only)) == {"gpu-numa-nodes": "unknown"}


def test_labels_that_an_administrator_manages_are_not_changed(found: Assessment) -> None:
    assert patch_for(state({"labels-managed": "false", "gpu-link": "rubbish"}), found) is None


@pytest.mark.parametrize("value", ["true", "", "False"])
def test_only_the_value_false_disables_the_labeller(found: Assessment, value: str) -> None:
    assert changed_labels(patch_for(state({"labels-managed": value}), found)) == found.labels


def test_an_administrators_acs_label_is_not_overwritten_with_unknown(found: Assessment) -> None:
    assert patch_for(state({**found.labels, "gpu-acs": "redirect"}), found) is None


def test_labels_of_others_are_not_changed(found: Assessment) -> None:
    theirs = {"nvidia.com/gpu.count": "2", "feature.node.kubernetes.io/cpu-model.vendor_id": "AMD"}
    patch = patch_for(NodeState(theirs, {}, "7"), found)
    assert patch
    assert all(name.startswith(P) for name in patch["metadata"]["labels"])


def test_invalid_labels_are_corrected(found: Assessment) -> None:
    garbage = dict.fromkeys(found.labels, "x" * 63)
    assert changed_labels(patch_for(state(garbage), found)) == found.labels


def test_the_matrix_is_added_and_removed_with_the_cards(tmp_path: Path, found: Assessment) -> None:
    four = assess(read_machine("server-four-cloud", tmp_path / "four"))
    patch = patch_for(state(four.labels), four)
    assert patch
    assert patch["metadata"]["annotations"] == {MATRIX_ANNOTATION: four.matrix}
    gone = patch_for(state(found.labels, {MATRIX_ANNOTATION: "[]"}), found)
    assert gone
    assert gone["metadata"]["annotations"] == {MATRIX_ANNOTATION: None}


@pytest.mark.parametrize("driver", ["9" * 64, "595 beta", "-595", "595.", "", "595\n"])
def test_a_driver_version_that_is_not_a_label_value_is_unknown_with_a_warning(driver: str) -> None:
    dump = NodeDump(node="n", taken_at="", driver=driver, gpus=(GpuDump(index=0), GpuDump(index=1)))
    found = assess(dump)
    assert found.labels["gpu-driver"] == "unknown"
    assert any("is not a valid label value" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((0, 0, 0, 0), "granted"),
        ((0, 1, 0, 0), "cns"),
        ((0, 0, 0, 4), "dr"),
        ((3, 1, 0, 0), "cns"),
        ((0, None, 0, 0), "unknown"),
        ((0, 6, 0, 0), "unknown"),
        ((0, 77, 0, 0), "unknown"),
        ((None, 5, None, None), "ns"),
    ],
)
def test_peer_to_peer_is_granted_only_if_reads_and_writes_are_in_both_directions(
    statuses: tuple[int | None, ...], expected: str
) -> None:
    pair = PairDump.model_validate({"first": 0, "second": 1, "p2p": statuses})
    dump = NodeDump(node="n", taken_at="", gpus=(GpuDump(index=0), GpuDump(index=1)), pairs=(pair,))
    assert assess(dump).labels["gpu-p2p"] == expected


@pytest.mark.parametrize(
    ("ancestors", "expected"),
    [([0], "pix"), ([10], "pix"), ([20, 10], "pxb"), ([40, 30], "node"), ([50, 10], "sys"), ([None, 10], "unknown"),
     ([99], "unknown"), ([], "unknown")],
)  # fmt: skip
def test_the_worst_pair_counts(ancestors: list[int | None], expected: str) -> None:
    pairs = tuple(PairDump(first=0, second=n + 1, ancestor=ancestor) for n, ancestor in enumerate(ancestors))
    assert worst_link(pairs) == expected


def test_nvlink_is_detected_by_its_peer_to_peer_status_whatever_the_common_ancestor() -> None:
    pair = PairDump(first=0, second=1, ancestor=50, nvlink=0, p2p=(0, 0, 0, 0))
    assert worst_link([pair]) == "nvlink"
