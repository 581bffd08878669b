"""The inputs of the ranks, and the detection of every kind of wrong result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flash_engine.p2p_test.payload import (
    EAGER_ROUNDS,
    REPLAYS,
    Difference,
    WrongDataError,
    difference,
    expected_sum,
    input_value,
    run_checks,
)
from p2p_ranks import fake_sessions
from p2p_ranks.fake_sessions import Corruption, FakeSession

POSITIONS = range(8192)
ROUNDS = (1, 2, 3, 32)


def share_equal(first: list[int], second: list[int]) -> float:
    return sum(one == other for one, other in zip(first, second, strict=True)) / len(first)


def test_sums_are_exact_in_bf16() -> None:
    values = {expected_sum(position, round_number) for position in POSITIONS for round_number in ROUNDS}
    assert min(values) >= 2
    assert max(values) <= 256, "bf16 represents every integer up to 256"


def test_numbers_differ_by_rank_round_and_position() -> None:
    for round_number in ROUNDS:
        mine = [input_value(position, 0, round_number) for position in POSITIONS]
        peer = [input_value(position, 1, round_number) for position in POSITIONS]
        later = [input_value(position, 0, round_number + 1) for position in POSITIONS]
        assert share_equal(mine, peer) < 0.05
        assert share_equal(mine, later) < 0.05
        for distance in (1, 8, 127, 128, 4096):
            assert share_equal(mine, mine[distance:] + mine[:distance]) < 0.05


def test_a_difference_describes_where_and_how_much() -> None:
    assert difference([1, 2, 3, 4], [1, 0, 3, 0]) == Difference(2, 4, 1, 2, 0)
    assert difference([1, 2], [1, 2]) is None
    assert Difference(2, 4, 1, 2, 0).description == "2 of 4 wrong, first at 1: expected 2, got 0"


@pytest.mark.parametrize("only_graphs", [False, True])
@pytest.mark.parametrize("corrupt", [getattr(fake_sessions, name) for name in
                                   ("zeros", "stale", "stale_peer", "own_twice", "shifted", "torn")])  # fmt: skip
def test_every_kind_of_wrong_data_is_detected(corrupt: Corruption, *, only_graphs: bool) -> None:
    with pytest.raises(WrongDataError, match="graph, round 4" if only_graphs else "eager, round 1"):
        run_checks(FakeSession(corrupt, only_graphs=only_graphs), lambda _step, **_fields: None)


def test_data_that_goes_stale_in_the_last_replay_is_detected() -> None:
    last = EAGER_ROUNDS + REPLAYS

    def stale_in_last_round(right: list[int], round_number: int) -> list[int]:
        return fake_sessions.stale(right, round_number) if round_number == last else right

    with pytest.raises(WrongDataError, match=f"round {last}"):
        run_checks(FakeSession(stale_in_last_round), lambda _step, **_fields: None)


def test_a_real_rank_reports_every_step_and_what_it_left_out(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "flash_engine.p2p_test.rank", "--variant=peer", "--rank=1", "--rendezvous=none")
    ended = subprocess.run(
        (*command, "--backend=p2p_ranks.fake_sessions:FakeBackend"),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    reported = [json.loads(line) for line in ended.stdout.splitlines()]
    steps = [line["step"] for line in reported]
    assert reported[:2] == [
        {"step": "device", "uuid": "GPU-1", "nccl": "2.30.4"},
        {"step": "ready", "kernel": "fake"},
    ]
    assert steps.count("begun") == 2 * (EAGER_ROUNDS + 1 + REPLAYS) + 5
    assert [line["detail"] for line in reported if line["step"] == "note"] == [
        "left out: bf16, 16777216 bytes",
        "left out: int32, 16777216 bytes",
    ]
    assert [line["bytes"] for line in reported if line["step"] == "timed"] == [8192, 16384, 65536, 262144, 1048576]
    assert steps[-1] == "done"
