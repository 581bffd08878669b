"""What the labeller writes on its node, and what it leaves to the operator and to administrators."""

from pathlib import Path
from typing import Any

import pytest

from fake_node.readings import read_machine
from flash_node.assessment import Assessment, assess, worst_link
from flash_node.dump import Gpu, NodeDump, Pair
from flash_node.labels import MATRIX_ANNOTATION, NodeState, patch_for

P = "deepseekflash.dev/"
REPORT = f"{P}gpu-p2p-report"
DRIVER = "595.58.03"


@pytest.fixture
def found(tmp_path: Path) -> Assessment:
    return assess(read_machine("ws-pair-node", tmp_path))


def state(labels: dict[str, str], annotations: dict[str, str] | None = None) -> NodeState:
    return NodeState({f"{P}{name}": value for name, value in labels.items()}, annotations or {}, "7")


def changed(patch: dict[str, Any] | None) -> dict[str, str | None]:
    """Labels of a patch, without their prefix."""
    assert patch
    return {name.removeprefix(P): value for name, value in patch["metadata"].get("labels", {}).items()}


def test_a_bare_node_gets_every_label_and_the_version_that_was_looked_at(found: Assessment) -> None:
    patch = patch_for(state({}), found)
    assert patch
    assert changed(patch) == found.labels
    assert patch["metadata"]["resourceVersion"] == "7"


def test_a_node_that_says_the_same_is_left_alone(found: Assessment) -> None:
    assert patch_for(state(found.labels), found) is None


@pytest.mark.parametrize("verdict", ["verified", "hang", "corrupt"])
def test_a_tested_verdict_stays_while_the_driver_stays(found: Assessment, verdict: str) -> None:
    tested = {**found.labels, "gpu-p2p": verdict, "gpu-p2p-driver": DRIVER, "gpu-p2p-probe": "v1-3fa9c2"}
    assert patch_for(state(tested, {REPORT: "{}"}), found) is None


@pytest.mark.parametrize("verdict", ["verified", "hang", "corrupt"])
def test_a_verdict_of_another_driver_goes_with_all_that_belongs_to_it(found: Assessment, verdict: str) -> None:
    tested = {**found.labels, "gpu-p2p": verdict, "gpu-p2p-driver": "580.1", "gpu-p2p-probe": "v1-3fa9c2"}
    patch = patch_for(state(tested, {REPORT: "{}"}), found)
    assert changed(patch) == {"gpu-p2p": "granted", "gpu-p2p-driver": None, "gpu-p2p-probe": None}
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
def test_a_verdict_of_other_cards_goes_with_all_that_belongs_to_it(
    verdict: str, change: dict[str, str], tmp_path: Path
) -> None:
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
    assert changed(patch_for(state(tested), after)) == {
        "gpu-p2p": "granted",
        "gpu-p2p-driver": None,
        "gpu-p2p-cards": None,
        "gpu-cards": after.labels["gpu-cards"],
    }


def test_a_third_card_ends_what_was_known_of_two(tmp_path: Path) -> None:
    dump = read_machine("server-four-cloud", tmp_path)
    two = dump.model_copy(update={"gpus": dump.gpus[:2], "pairs": dump.pairs[:1]})
    cards = assess(two).labels["gpu-cards"]
    tested = {**assess(two).labels, "gpu-p2p": "verified", "gpu-p2p-driver": str(dump.driver), "gpu-p2p-cards": cards}
    assert changed(patch_for(state(tested), assess(dump)))["gpu-p2p"] == "granted"


def test_cards_that_do_not_tell_who_they_are_are_unknown() -> None:
    assert assess(NodeDump(node="n", taken_at="", gpus=(Gpu(index=0, bus="b"), Gpu(index=1)))).labels["gpu-cards"] == (
        "unknown"
    )


def test_a_verdict_that_the_driver_speaks_against_goes(tmp_path: Path) -> None:
    refused = assess(read_machine("geforce-pair", tmp_path))
    tested = {**refused.labels, "gpu-p2p": "verified", "gpu-p2p-driver": refused.labels["gpu-driver"]}
    assert changed(patch_for(state(tested), refused)) == {"gpu-p2p": "gns", "gpu-p2p-driver": None}


@pytest.mark.parametrize("verdict", ["verified", "hang"])
def test_a_verdict_without_a_driver_is_nobodys(found: Assessment, verdict: str) -> None:
    assert changed(patch_for(state({**found.labels, "gpu-p2p": verdict}), found)) == {"gpu-p2p": "granted"}


def test_a_verdict_does_not_stand_while_the_driver_is_unknown(found: Assessment) -> None:
    blind = assess(NodeDump(node="n", taken_at=""))
    tested = {**found.labels, "gpu-p2p": "verified", "gpu-p2p-driver": DRIVER}
    assert changed(patch_for(state(tested), blind))["gpu-p2p"] == "unknown"


def test_labels_that_an_administrator_keeps_are_not_touched(found: Assessment) -> None:
    assert patch_for(state({"labels-managed": "false", "gpu-link": "rubbish"}), found) is None


@pytest.mark.parametrize("value", ["true", "", "False"])
def test_only_false_in_so_many_words_keeps_us_away(found: Assessment, value: str) -> None:
    assert changed(patch_for(state({"labels-managed": value}), found)) == found.labels


def test_an_administrators_acs_is_not_overwritten_by_what_no_user_can_read(found: Assessment) -> None:
    assert patch_for(state({**found.labels, "gpu-acs": "redirect"}), found) is None


def test_labels_of_others_are_not_touched(found: Assessment) -> None:
    theirs = {"nvidia.com/gpu.count": "2", "feature.node.kubernetes.io/cpu-model.vendor_id": "AMD"}
    patch = patch_for(NodeState(theirs, {}, "7"), found)
    assert patch
    assert all(name.startswith(P) for name in patch["metadata"]["labels"])


def test_garbage_that_stands_there_is_put_right(found: Assessment) -> None:
    garbage = dict.fromkeys(found.labels, "x" * 63)
    assert changed(patch_for(state(garbage), found)) == found.labels


def test_a_matrix_comes_and_goes_with_the_cards(tmp_path: Path, found: Assessment) -> None:
    four = assess(read_machine("server-four-cloud", tmp_path / "four"))
    patch = patch_for(state(four.labels), four)
    assert patch
    assert patch["metadata"]["annotations"] == {MATRIX_ANNOTATION: four.matrix}
    gone = patch_for(state(found.labels, {MATRIX_ANNOTATION: "[]"}), found)
    assert gone
    assert gone["metadata"]["annotations"] == {MATRIX_ANNOTATION: None}


@pytest.mark.parametrize("driver", ["9" * 64, "595 beta", "-595", "595.", "", "595\n"])
def test_a_driver_version_that_is_no_label_value_is_unknown_and_told(driver: str) -> None:
    dump = NodeDump(node="n", taken_at="", driver=driver, gpus=(Gpu(index=0), Gpu(index=1)))
    found = assess(dump)
    assert found.labels["gpu-driver"] == "unknown"
    assert any("is no label value" in warning for warning in found.warnings)


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
def test_peer_to_peer_is_granted_only_where_each_way_and_each_direction_is(
    statuses: tuple[int | None, ...], expected: str
) -> None:
    pair = Pair.model_validate({"first": 0, "second": 1, "p2p": statuses})
    dump = NodeDump(node="n", taken_at="", gpus=(Gpu(index=0), Gpu(index=1)), pairs=(pair,))
    assert assess(dump).labels["gpu-p2p"] == expected


@pytest.mark.parametrize(
    ("ancestors", "expected"),
    [([0], "pix"), ([10], "pix"), ([20, 10], "pxb"), ([40, 30], "node"), ([50, 10], "sys"), ([None, 10], "unknown"),
     ([99], "unknown"), ([], "unknown")],
)  # fmt: skip
def test_the_worst_pair_counts(ancestors: list[int | None], expected: str) -> None:
    pairs = tuple(Pair(first=0, second=n + 1, ancestor=ancestor) for n, ancestor in enumerate(ancestors))
    assert worst_link(pairs) == expected


def test_nvlink_is_told_by_its_peer_to_peer_status_and_not_by_the_way_around_it() -> None:
    pair = Pair(first=0, second=1, ancestor=50, nvlink=0, p2p=(0, 0, 0, 0))
    assert worst_link([pair]) == "nvlink"
