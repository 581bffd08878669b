"""The labeller's rounds: never an exception, never a wrong label left behind, every fault told once."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_node.readings import read_machine
from flash_node.assessment import assess
from flash_node.dump import Gpu, NodeDump
from flash_node.labeller.cluster import ClusterError, ConflictError
from flash_node.labeller.loop import ATTEMPTS, Rounds
from scripted_node_stub import ScriptedNode

P2P = "deepseekflash.dev/gpu-p2p"
LINK = "deepseekflash.dev/gpu-link"
VOID = NodeDump(node="n", taken_at="", faults=("NVML: Driver Not Loaded",))


@pytest.fixture
def pair(tmp_path: Path) -> NodeDump:
    return read_machine("ws-pair-node", tmp_path)


def readings(*dumps: NodeDump) -> Callable[[], NodeDump]:
    """One after the other, and the last one for ever."""
    left = list(dumps)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_a_second_round_writes_nothing(pair: NodeDump) -> None:
    node = ScriptedNode()
    rounds = Rounds(node, readings(pair))
    assert [rounds.look(), rounds.look()] == [True, True]
    assert len(node.patches) == 1


def test_one_reading_that_fails_changes_no_label(pair: NodeDump) -> None:
    node = ScriptedNode()
    rounds = Rounds(node, readings(pair, VOID, pair))
    assert [rounds.look() for _ in range(3)] == [True, False, True]
    assert len(node.patches) == 1
    assert node.labels[LINK] == "node"


def test_after_two_that_fail_nothing_is_known_of_the_cards(pair: NodeDump) -> None:
    node = ScriptedNode()
    rounds = Rounds(node, readings(pair, VOID))
    for _ in range(3):
        rounds.look()
    assert (node.labels[LINK], node.labels[P2P]) == ("unknown", "unknown")


def test_a_verdict_goes_with_cards_that_cannot_be_read(pair: NodeDump) -> None:
    node = ScriptedNode()
    rounds = Rounds(node, readings(pair, VOID))
    rounds.look()
    node.labels.update({P2P: "verified", f"{P2P}-driver": "595.58.03"})
    rounds.look()
    rounds.look()
    assert node.labels[P2P] == "unknown"
    assert f"{P2P}-driver" not in node.labels


def test_a_fault_is_told_once_and_again_after_it_was_gone(pair: NodeDump) -> None:
    node = ScriptedNode()
    rounds = Rounds(node, readings(VOID, VOID, pair, VOID))
    for _ in range(4):
        rounds.look()
    assert node.told == ["NVML: Driver Not Loaded", "no GPU was found"] * 2


def test_an_event_that_is_refused_keeps_no_label_back_and_is_tried_again(pair: NodeDump) -> None:
    lost = pair.model_copy(update={"gpus": (pair.gpus[0], Gpu(index=1)), "faults": ("GPU 1: GPU is lost",)})
    node = ScriptedNode(labels={LINK: "phb"}, refuses_events=True)
    rounds = Rounds(node, readings(lost), again_seconds=0.0)
    assert rounds.look() is True
    assert node.labels["deepseekflash.dev/gpu-pcie"] == "unknown"
    node.refuses_events = False
    rounds.look()
    rounds.look()
    assert node.told == ["GPU 1: GPU is lost"]


def test_a_verdict_that_the_operator_wrote_meanwhile_is_kept(pair: NodeDump) -> None:
    """Its write makes ours a conflict; the next look sees the verdict and keeps it."""

    class Busy(ScriptedNode):
        def patch(self, body: dict[str, object]) -> None:
            if not self.patches and P2P not in self.labels:
                self.labels.update({P2P: "hang", f"{P2P}-driver": "595.58.03", f"{P2P}-probe": "engine"})
                raise ConflictError("409 Conflict")
            super().patch(body)

    node = Busy()
    assert Rounds(node, readings(pair)).look() is True
    assert (node.labels[P2P], node.labels[f"{P2P}-probe"], node.labels[LINK]) == ("hang", "engine", "node")


def test_two_labellers_at_once_write_the_same_labels_once(pair: NodeDump) -> None:
    """As while a DaemonSet is rolled: the other's whole round falls between this one's look and its patch."""

    class Shared(ScriptedNode):
        def patch(self, body: dict[str, object]) -> None:
            if not self.patches and other:
                assert other.pop().look() is True
            super().patch(body)

    node = Shared()
    other = [Rounds(node, readings(pair))]
    assert Rounds(node, readings(pair)).look() is True
    assert len(node.patches) == 1
    assert node.labels == {f"deepseekflash.dev/{name}": value for name, value in assess(pair).labels.items()}


def test_of_two_labellers_that_read_differently_the_one_that_stays_has_the_last_word(pair: NodeDump) -> None:
    node = ScriptedNode()
    goes, stays = Rounds(node, readings(pair.model_copy(update={"driver": "580.1"}))), Rounds(node, readings(pair))
    assert [goes.look(), stays.look(), goes.look(), stays.look()] == [True] * 4
    assert node.labels["deepseekflash.dev/gpu-driver"] == pair.driver


@pytest.mark.parametrize("verdict", ["verified", "hang", "corrupt"])
def test_a_call_that_fails_once_costs_no_verdict(pair: NodeDump, verdict: str) -> None:
    link = pair.pairs[0].model_copy(update={"p2p": (0, 0, None, 0)})
    failed = pair.model_copy(update={"pairs": (link,), "faults": ("P2P status of GPUs 0 and 1: Unknown Error",)})
    node = ScriptedNode()
    rounds = Rounds(node, readings(pair, failed, pair, failed), again_seconds=0.0)
    rounds.look()
    node.labels.update({P2P: verdict, f"{P2P}-driver": "595.58.03"})

    assert rounds.look() is True
    assert node.labels[P2P] == verdict
    assert node.told == []

    assert rounds.look() is True
    assert node.labels[P2P] == "unknown", "one that fails twice is told, and nothing is promised on its ground"
    assert node.told == ["P2P status of GPUs 0 and 1: Unknown Error"]


def test_conflicts_without_end_are_given_up_until_the_next_round(pair: NodeDump) -> None:
    node = ScriptedNode(refusals=[ConflictError("409 Conflict")] * ATTEMPTS)
    rounds = Rounds(node, readings(pair))
    assert [rounds.look(), rounds.look()] == [False, True]


@pytest.mark.parametrize("refusal", ["403 Forbidden", "500 Internal Server Error", "connection refused"])
def test_a_refusal_ends_a_round_and_no_more(refusal: str, pair: NodeDump) -> None:
    node = ScriptedNode(refusals=[ClusterError(refusal)])
    rounds = Rounds(node, readings(pair))
    assert [rounds.look(), rounds.look()] == [False, True]


def test_a_node_that_is_deleted_meanwhile_is_no_exception(pair: NodeDump) -> None:
    node = ScriptedNode(gone=True)
    assert Rounds(node, readings(VOID, VOID, pair)).look() is False


def test_a_card_whose_driver_never_answers_is_told_and_asked_by_one_thread_only(pair: NodeDump) -> None:
    release = threading.Event()
    asked: list[None] = []

    def read() -> NodeDump:
        asked.append(None)
        release.wait(60)
        return pair

    node = ScriptedNode()
    rounds = Rounds(node, read, reading_seconds=0.05)
    try:
        assert [rounds.look() for _ in range(3)] == [False, True, True]
        assert node.labels[LINK] == "unknown"
        assert len(asked) == 1
        assert any("NVML has not answered" in told for told in node.told)
        release.set()
        assert Rounds(node, lambda: pair).look() is True
    finally:
        release.set()


def test_a_stuck_reading_that_comes_after_all_is_taken(pair: NodeDump) -> None:
    release = threading.Event()

    def read() -> NodeDump:
        release.wait(60)
        return pair

    node = ScriptedNode()
    rounds = Rounds(node, read, reading_seconds=0.05)
    rounds.look()
    release.set()
    late = Rounds.look
    assert any(late(rounds) for _ in range(100))
    assert node.labels[LINK] == "node"


def test_a_reading_that_raises_is_a_fault() -> None:
    def read() -> NodeDump:
        raise MemoryError("no more")

    node = ScriptedNode(labels={LINK: "node"})
    rounds = Rounds(node, read)
    assert rounds.look() is False
    assert node.labels[LINK] == "node"
    assert "reading failed: MemoryError: no more" in node.told
