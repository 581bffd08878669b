"""The size of a batch, by experts and by tokens."""

import pytest
import torch

from mtp_quantiser.device_job import TOKENS_FOR_EACH, batches
from mtp_quantiser.routing import RoutingTable


@pytest.mark.parametrize("counts", [[], [0], [5] * 7, [0] * 9])
def test_few_tokens_are_divided_by_experts_alone(counts: list[int]) -> None:
    assert [some.stop - some.start for some in batches(counts, 3)] == [
        min(3, len(counts) - first) for first in range(0, len(counts), 3)
    ]


def test_many_tokens_make_batches_smaller_and_an_expert_that_has_too_many_stands_alone() -> None:
    most = 4 * TOKENS_FOR_EACH
    counts = [most // 2, most // 2, 1, 3 * most, 1, most, 0, 1]
    found = [(some.start, some.stop) for some in batches(counts, 4)]
    assert found == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 7), (7, 8)]


def test_a_table_of_some_tokens_keeps_each_pair_with_its_expert() -> None:
    ids = torch.tensor([[0, 2], [2, 3], [0, 3], [3, 2]])
    weights = torch.arange(8.0).view(4, 2)
    chosen = torch.tensor([True, False, True, True])
    numbers = torch.arange(4)
    part = RoutingTable.of(ids, weights, 5, numbers).of_tokens(chosen)
    wanted = RoutingTable.of(ids[chosen], weights[chosen], 5, numbers[chosen])
    assert torch.equal(part.rows, wanted.rows)
    assert torch.equal(part.route, wanted.route)
    assert part.bounds == wanted.bounds
    assert torch.equal(part.offsets, wanted.offsets)
