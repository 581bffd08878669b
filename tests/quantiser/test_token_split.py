"""Which tokens calibrate, and which judge."""

import pytest
import torch

from mtp_quantiser.token_split import Part, parts_of


def counted(parts: torch.Tensor) -> list[int]:
    return [int((parts == part).sum()) for part in Part]


def test_a_request_is_never_split() -> None:
    requests = torch.randint(0, 60, (3000,), generator=torch.Generator().manual_seed(0))  # interleaved, as recorded
    parts = parts_of(3000, requests)
    assert all(len(parts[requests == request].unique()) == 1 for request in range(60))
    assert counted(parts) == pytest.approx([2700, 300], abs=120)


def test_without_requests_blocks_of_consecutive_rows_stay_together() -> None:
    parts = parts_of(100_000, None)
    assert counted(parts) == pytest.approx([90_000, 10_000], abs=512)
    changes = (parts.diff() != 0).nonzero().flatten() + 1
    assert all(change % 256 == 0 for change in changes.tolist())


@pytest.mark.parametrize("at", [0, 40, 79])
def test_one_request_with_most_of_the_tokens_is_calibrated_on(at: int) -> None:
    sizes = torch.full((80,), 10)
    sizes[at] = 5000
    requests = torch.arange(80).repeat_interleave(sizes)
    assert parts_of(len(requests), requests)[requests == at].unique().tolist() == [Part.CALIBRATE]


@pytest.mark.parametrize(
    ("tokens", "requests"), [(400, torch.arange(400) // 100), (400, None), (20, torch.zeros(20, dtype=torch.int64))]
)
def test_few_requests_leave_no_part_empty(tokens: int, requests: torch.Tensor | None) -> None:
    assert counted(parts_of(tokens, requests)) == [tokens * 9 // 10, tokens // 10]


@pytest.mark.parametrize("tokens", [0, 1, 2, 5])
def test_so_few_tokens_that_parts_are_empty_are_calibrated_on_first(tokens: int) -> None:
    parts = parts_of(tokens, None)
    assert len(parts) == tokens
    assert counted(parts)[Part.CALIBRATE] >= tokens - 1
