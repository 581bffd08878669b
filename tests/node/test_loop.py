"""The labeller's loop never raises, leaves no wrong label behind, and reports every fault once."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_node.readings import read_machine
from flash_node.assessment import assess
from flash_node.dump import GpuDump, NodeDump
from flash_node.labeller.cluster import ClusterError, ConflictError
from flash_node.labeller.loop import ATTEMPTS, LabelLoop
from scripted_node_stub import ScriptedNode

P2P = "deepseekflash.dev/gpu-p2p"
LINK = "deepseekflash.dev/gpu-link"
EMPTY = NodeDump(node="n", taken_at="", faults=("NVML: Driver Not Loaded",))


@pytest.fixture
def pair(tmp_path: Path) -> NodeDump:
    return read_machine("ws-pair-node", tmp_path)


def readings(*dumps: NodeDump) -> Callable[[], NodeDump]:
    """Return the dumps one after the other, then the last one forever."""
    remaining = list(dumps)
    return lambda: remaining.pop(0) if len(remaining) > 1 else remaining[0]


def test_a_second_round_writes_nothing(pair: NodeDump) -> None:
    node = ScriptedNode()
    loop = LabelLoop(node, readings(pair))
    assert [loop.run_once(), loop.run_once()] == [True, True]
    assert len(node.patches) == 1


def test_failed_readings_change_no_label_that_is_known(pair: NodeDump) -> None:
    node = ScriptedNode()
    loop = LabelLoop(node, readings(pair, EMPTY, EMPTY, EMPTY, pair))
    loop.run_once()
    node.labels.update({P2P: "corrupt", f"{P2P}-driver": "595.58.03", f"{P2P}-tested-by": "engine"})
    assert [loop.run_once() for _ in range(4)] == [True] * 4
    assert len(node.patches) == 1
    assert (node.labels[LINK], node.labels[P2P], node.labels[f"{P2P}-tested-by"]) == ("node", "corrupt", "engine")


def test_a_node_that_was_never_read_is_labelled_unknown(pair: NodeDump) -> None:
    node = ScriptedNode()
    loop = LabelLoop(node, readings(EMPTY, pair))
    assert loop.run_once() is True
    assert (node.labels[LINK], node.labels[P2P]) == ("unknown", "unknown")
    loop.run_once()
    assert (node.labels[LINK], node.labels[P2P]) == ("node", "granted")


def test_a_fault_is_reported_once_and_again_after_it_had_disappeared(pair: NodeDump) -> None:
    node = ScriptedNode()
    loop = LabelLoop(node, readings(EMPTY, EMPTY, pair, EMPTY))
    for _ in range(4):
        loop.run_once()
    assert node.events == ["NVML: Driver Not Loaded", "no GPU was found"] * 2


def test_a_refused_event_does_not_delay_labels_and_is_retried(pair: NodeDump) -> None:
    lost = pair.model_copy(update={"gpus": (pair.gpus[0], GpuDump(index=1)), "faults": ("GPU 1: GPU is lost",)})
    node = ScriptedNode(labels={LINK: "phb"}, refuses_events=True)
    loop = LabelLoop(node, readings(lost), retry_seconds=0.0)
    assert loop.run_once() is True
    assert node.labels["deepseekflash.dev/gpu-pcie"] == "unknown"
    node.refuses_events = False
    loop.run_once()
    loop.run_once()
    assert len(node.events) == 2, "each once"
    assert "GPU 1: GPU is lost" in node.events


def test_a_verdict_that_the_operator_wrote_in_between_is_kept(pair: NodeDump) -> None:
    """The operator's write makes ours a conflict; the next attempt reads the verdict and keeps it."""

    class Busy(ScriptedNode):
        def patch(self, body: dict[str, object]) -> None:
            if not self.patches and P2P not in self.labels:
                self.labels.update({P2P: "hang", f"{P2P}-driver": "595.58.03", f"{P2P}-tested-by": "engine"})
                raise ConflictError("409 Conflict")
            super().patch(body)

    node = Busy()
    assert LabelLoop(node, readings(pair)).run_once() is True
    assert (node.labels[P2P], node.labels[f"{P2P}-tested-by"], node.labels[LINK]) == ("hang", "engine", "node")


def test_two_labellers_at_once_write_the_same_labels_once(pair: NodeDump) -> None:
    """As during a rollout of the DaemonSet: the other's whole round runs between this one's read and its patch."""

    class Shared(ScriptedNode):
        def patch(self, body: dict[str, object]) -> None:
            if not self.patches and other:
                assert other.pop().run_once() is True
            super().patch(body)

    node = Shared()
    other = [LabelLoop(node, readings(pair))]
    assert LabelLoop(node, readings(pair)).run_once() is True
    assert len(node.patches) == 1
    assert node.labels == {f"deepseekflash.dev/{name}": value for name, value in assess(pair).labels.items()}


def test_of_two_labellers_with_different_readings_the_last_one_wins(pair: NodeDump) -> None:
    node = ScriptedNode()
    leaving, staying = (
        LabelLoop(node, readings(pair.model_copy(update={"driver": "580.1"}))),
        LabelLoop(node, readings(pair)),
    )
    assert [leaving.run_once(), staying.run_once(), leaving.run_once(), staying.run_once()] == [True] * 4
    assert node.labels["deepseekflash.dev/gpu-driver"] == pair.driver


@pytest.mark.parametrize("verdict", ["verified", "hang", "corrupt"])
def test_a_call_that_fails_does_not_remove_a_verdict(pair: NodeDump, verdict: str) -> None:
    link = pair.pairs[0].model_copy(update={"p2p": (0, 0, None, 0)})
    failed = pair.model_copy(update={"pairs": (link,), "faults": ("P2P status of GPUs 0 and 1: Unknown Error",)})
    node = ScriptedNode()
    loop = LabelLoop(node, readings(pair, failed, pair, failed), retry_seconds=0.0)
    loop.run_once()
    node.labels.update({P2P: verdict, f"{P2P}-driver": "595.58.03"})

    assert loop.run_once() is True
    assert node.labels[P2P] == verdict
    assert node.events == []

    assert loop.run_once() is True
    assert node.labels[P2P] == verdict, "a call that fails twice is reported, and proves nothing against the verdict"
    assert node.events == ["P2P status of GPUs 0 and 1: Unknown Error"]


def test_repeated_conflicts_are_given_up_until_the_next_round(pair: NodeDump) -> None:
    node = ScriptedNode(refusals=[ConflictError("409 Conflict")] * ATTEMPTS)
    loop = LabelLoop(node, readings(pair))
    assert [loop.run_once(), loop.run_once()] == [False, True]


@pytest.mark.parametrize("refusal", ["403 Forbidden", "500 Internal Server Error", "connection refused"])
def test_a_refused_patch_ends_only_its_round(refusal: str, pair: NodeDump) -> None:
    node = ScriptedNode(refusals=[ClusterError(refusal)])
    loop = LabelLoop(node, readings(pair))
    assert [loop.run_once(), loop.run_once()] == [False, True]


def test_a_node_that_is_deleted_in_between_raises_nothing(pair: NodeDump) -> None:
    node = ScriptedNode(gone=True)
    assert LabelLoop(node, readings(EMPTY, EMPTY, pair)).run_once() is False


def test_a_driver_that_never_answers_is_reported_and_called_by_one_thread_only(pair: NodeDump) -> None:
    release = threading.Event()
    calls: list[None] = []

    def read() -> NodeDump:
        calls.append(None)
        release.wait(60)
        return pair

    node = ScriptedNode()
    loop = LabelLoop(node, read, reading_seconds=0.05)
    try:
        assert [loop.run_once() for _ in range(3)] == [True] * 3
        assert node.labels[LINK] == "unknown"
        assert len(calls) == 1
        assert any("NVML did not answer" in message for message in node.events)
        release.set()
        assert LabelLoop(node, lambda: pair).run_once() is True
    finally:
        release.set()


def test_a_stuck_reading_that_returns_late_is_used(pair: NodeDump) -> None:
    release = threading.Event()

    def read() -> NodeDump:
        release.wait(60)
        return pair

    node = ScriptedNode()
    loop = LabelLoop(node, read, reading_seconds=0.05)
    loop.run_once()
    release.set()
    assert any(loop.run_once() and node.labels[LINK] == "node" for _ in range(100))


def test_a_reading_that_raises_is_a_fault() -> None:
    def read() -> NodeDump:
        raise MemoryError("no more")

    node = ScriptedNode(labels={LINK: "node"})
    loop = LabelLoop(node, read)
    loop.run_once()
    assert node.labels[LINK] == "node"
    assert "reading failed: MemoryError: no more" in node.events
