"""Captures on disk: what is read, what is refused, and what the hook writes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tiny_checkpoints as tiny
from flash_contracts.mtp_capture import FORMAT, INPUT, REQUEST, router_digest
from mtp_quantiser import captures
from mtp_quantiser.captures import Capture, Streamed
from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.router import choose, route
from mtp_quantiser.routing import Resident, RoutingTable

CPU = torch.device("cpu")


def test_tokens_from_disk_are_the_tokens_in_memory(capture: Path) -> None:
    opened = Capture.open(capture, tiny.SHAPE)
    x = torch.cat([tiny.inputs(500, 1), tiny.inputs(300, 2)])
    rows = torch.tensor([0, 4, 799, 2, 4, 500, 501])
    assert opened.tokens == 800
    assert torch.equal(Streamed(opened, CPU).gather(rows), Resident(x).gather(rows))


def test_tokens_read_by_all_cores_are_in_order_and_finite(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captures, "PIECE", 70)
    pieces = list(Capture.open(capture, tiny.SHAPE).pieces(CPU))
    assert [len(piece) for piece in pieces] == [*[70] * 7, 10, *[70] * 4, 20]
    assert torch.equal(torch.cat(pieces), torch.cat([tiny.inputs(500, 1), tiny.inputs(300, 2)]))
    broken = tiny.inputs(200)
    broken[142, 7] = torch.inf
    bad = Capture.open(tiny.write_capture(tmp_path / "c", broken), tiny.SHAPE)
    with pytest.raises(QuantiserError, match=r"capture-0.safetensors contains NaN or infinity, first in row 142"):
        list(bad.pieces(CPU))


def test_each_expert_gets_its_tokens_in_order_with_their_weights() -> None:
    ids = torch.tensor([[2, 0], [0, 1], [2, 1]])
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    table = RoutingTable.of(ids, weights, experts=4, numbers=torch.tensor([10, 20, 30]))
    assert table.bounds == (0, 2, 4, 6, 6)
    assert table.rows.tolist() == [10, 20, 20, 30, 10, 30]
    assert torch.equal(table.route, torch.tensor([0.2, 0.3, 0.4, 0.6, 0.1, 0.5]))


def test_a_batch_starts_counting_anew() -> None:
    table = RoutingTable.of(torch.tensor([[0], [1], [1], [2]]), torch.ones(4, 1), experts=3, numbers=torch.arange(4))
    routed = table.batch(slice(1, 3), Resident(torch.arange(8.0).view(4, 2)))
    assert routed.bounds == (0, 2, 3)
    assert routed.offsets.tolist() == [0, 2, 3]
    assert routed.x.tolist() == [[2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]


def test_the_bias_selects_and_does_not_weigh() -> None:
    x = torch.ones(1, 256).bfloat16()
    weight = (torch.tensor([1.0, 0.5, 0.0, -0.5])[:, None] * torch.ones(4, 256) / 256).bfloat16()
    ids, weights = choose(x, weight, torch.tensor([0.0, 0.0, 0.0, 5.0]), tiny.SHAPE)
    assert sorted(ids[0].tolist()) == [0, 3]
    scores = torch.nn.functional.softplus(torch.tensor([1.0, -0.5])).sqrt()
    wanted = scores / scores.sum() * 1.5
    assert weights[0][ids[0].argsort()].tolist() == pytest.approx(wanted.tolist(), rel=1e-3)


def test_the_engines_own_choice_goes_before_the_routers(tmp_path: Path) -> None:
    ids = torch.tensor([[3, 1], [0, 2]], dtype=torch.int32)
    tensors = {INPUT: tiny.inputs(2), "topk_ids": ids, "topk_weights": torch.full((2, 2), 0.75)}
    save_file(tensors, tmp_path / "c.safetensors", metadata={"format": FORMAT})
    gate = (torch.zeros(4, 256).bfloat16(), torch.zeros(4))
    found, weights = route(Capture.open(tmp_path, tiny.SHAPE), gate, tiny.SHAPE)
    assert found.tolist() == ids.tolist()
    assert (weights == 0.75).all()


def test_a_token_with_zero_scores_has_no_weight() -> None:
    weight = (torch.full((4, 256), -10.0)).bfloat16()
    _, weights = choose(torch.ones(1, 256).bfloat16(), weight, torch.zeros(4), tiny.SHAPE)
    assert weights.tolist() == [[0.0, 0.0]]


def test_a_choice_of_experts_that_are_not_there_is_refused(tmp_path: Path) -> None:
    ids = torch.tensor([[4, 1]], dtype=torch.int32)
    tensors = {INPUT: tiny.inputs(1), "topk_ids": ids, "topk_weights": torch.ones(1, 2)}
    save_file(tensors, tmp_path / "c.safetensors", metadata={"format": FORMAT})
    with pytest.raises(QuantiserError, match="do not choose 4 experts"):
        Capture.open(tmp_path, tiny.SHAPE).files[0].choice(4)


def test_infinity_is_refused_with_file_and_row(tmp_path: Path) -> None:
    broken = tiny.inputs(100)
    broken[42, 7] = torch.inf
    capture = Capture.open(tiny.write_capture(tmp_path / "c", tiny.inputs(10), broken), tiny.SHAPE)
    with pytest.raises(QuantiserError, match=r"capture-1.safetensors contains NaN or infinity, first in row 42"):
        list(capture.chunks())


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantiserError, match="make a capture with"):
        Capture.open(tmp_path, tiny.SHAPE)


def test_a_capture_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantiserError, match=r"not BF16 \[n, 256\]"):
        Capture.open(tiny.write_capture(tmp_path / "c", torch.ones(3, 128).bfloat16()), tiny.SHAPE)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "c.safetensors")
    with pytest.raises(QuantiserError, match=f"does not have format {FORMAT}"):
        Capture.open(tmp_path, tiny.SHAPE)


def test_requests_are_numbered_through_all_files_of_all_recorders(tmp_path: Path) -> None:
    for name, recorder, numbers in (("a", "one", [0, 0, 1]), ("b", "one", [1, 2]), ("c", "two", [0, 1])):
        tensors = {INPUT: tiny.inputs(len(numbers)), REQUEST: torch.tensor(numbers, dtype=torch.int32)}
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata={"format": FORMAT, "recorder": recorder})
    requests = Capture.open(tmp_path, tiny.SHAPE).requests()
    assert requests is not None
    assert requests.tolist() == [0, 0, 1, 1, 2, 3, 4]


def test_without_numbers_in_one_file_no_request_is_known(capture: Path) -> None:
    assert Capture.open(capture, tiny.SHAPE).requests() is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["capture-71-00000", "capture-72-00000"], "71 and 72 recorded the same tokens"),
        (["part-0", "part-1"], "part-0.safetensors and part-1.safetensors recorded the same tokens"),
        (["capture-71-00000", "capture-71-00001"], "the second half of what 71 recorded repeats the first"),
    ],
)
def test_tokens_that_each_gpu_recorded_are_refused(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        save_file({INPUT: tiny.inputs(200)}, tmp_path / f"{name}.safetensors", metadata={"format": FORMAT})
    with pytest.raises(QuantiserError, match=f"{message}.*capture again with flash-capture"):
        Capture.open(tmp_path, tiny.SHAPE).require_distinct()


def test_one_gpu_that_wrote_less_before_it_was_stopped_is_found_too(tmp_path: Path) -> None:
    x = tiny.inputs(200)
    with pytest.raises(QuantiserError, match="recorded the same tokens"):
        Capture.open(tiny.write_capture(tmp_path / "c", x, x[:90]), tiny.SHAPE).require_distinct()


def test_equal_beginnings_of_prompts_are_no_copy(tmp_path: Path) -> None:
    x, y = tiny.inputs(200, 1), tiny.inputs(200, 2)
    opened = Capture.open(tiny.write_capture(tmp_path / "c", x, torch.cat([x[:100], y])), tiny.SHAPE)
    opened.require_distinct()
    assert opened.tokens == 500


def test_a_capture_of_another_models_router_is_refused(tmp_path: Path) -> None:
    metadata = {"format": FORMAT, "router": router_digest(b"another")}
    save_file({INPUT: tiny.inputs(3)}, tmp_path / "c.safetensors", metadata=metadata)
    opened = Capture.open(tmp_path, tiny.SHAPE)
    opened.require_router(router_digest(b"another"))
    with pytest.raises(QuantiserError, match=r"c.safetensors was recorded with another model"):
        opened.require_router(router_digest(b"this"))
