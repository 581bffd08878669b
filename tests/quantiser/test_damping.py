"""The damping of each matrix: how much, and which of two."""

import pytest
import torch

from mtp_quantiser import damping
from mtp_quantiser.batch import QuantiserSettings, Routed, column_order, quantise
from mtp_quantiser.evaluation import decoded, relative_error
from mtp_quantiser.stages import Factor
from mtp_quantiser.stages.plain import PlainStages

COLUMNS, ROWS = 256, 128
PLAIN = PlainStages()


def candidates(diagonal: torch.Tensor, tokens: int) -> torch.Tensor:
    return damping.candidates(diagonal[None], column_order(diagonal[None]), torch.tensor([tokens]))[:, 0]


def test_a_few_strong_channels_do_not_change_the_damping() -> None:
    even = torch.ones(COLUMNS)
    strong = even.clone()
    strong[:3] = 2500.0
    assert torch.equal(candidates(strong, 1000), candidates(even, 1000))


def test_unused_channels_do_not_lower_it() -> None:
    diagonal = torch.ones(COLUMNS)
    diagonal[: COLUMNS * 3 // 4] = 0
    assert torch.equal(candidates(diagonal, 1000), candidates(torch.ones(COLUMNS), 1000))


def test_nearly_idle_channels_leave_enough_for_the_factorisation() -> None:
    diagonal = torch.full((COLUMNS,), 1e-12)
    diagonal[0] = 256.0
    assert (candidates(diagonal, 10**6) > 0.9e-7).all()


@pytest.mark.parametrize(("tokens", "share"), [(0, 0.3), (25, 0.3), (256, 0.1), (1024, 0.025), (100_000, 0.01)])
def test_the_share_falls_with_the_tokens_and_the_second_is_the_most(tokens: int, share: float) -> None:
    assert candidates(torch.ones(COLUMNS), tokens).tolist() == pytest.approx([share, 0.3])


def test_each_matrix_keeps_its_better_factor() -> None:
    def factor(value: float, failed: list[int]) -> Factor:
        full = torch.full((4, 2, 2), value)
        return Factor(full.clone(), full[:, None].clone(), torch.tensor(failed, dtype=torch.int32))

    factors = factor(1.0, [0, 0, 1, 0]), factor(2.0, [0, 0, 0, 1])
    losses = torch.tensor([1.0, 3.0, 1.0, 3.0]), torch.tensor([2.0, 2.0, 2.0, 2.0])
    kept, later = damping.take_better(factors, losses)
    assert later.tolist() == [False, True, True, False]
    assert kept.lower[:, 0, 0].tolist() == kept.blocks[:, 0, 0, 0].tolist() == [1.0, 2.0, 2.0, 1.0]
    assert kept.failed.tolist() == [0, 0, 0, 0]


def routed(x: torch.Tensor) -> Routed:
    bounds = (0, len(x))
    return Routed(x, torch.ones(len(x)), bounds, torch.tensor(bounds, dtype=torch.int32))


def quantised(x: torch.Tensor, weights: torch.Tensor, probe: Routed | None) -> tuple[float, float]:
    """The error on inputs that neither calibrated nor chose, and the damping."""
    seen = routed(x[:200])
    done = quantise(
        PLAIN, weights[None], PLAIN.gram(seen.x, seen.offsets), torch.tensor([200]), QuantiserSettings(), probe
    )
    return relative_error(x[400:], weights, decoded(done.codes[0], done.scales[0])), done.damping[0].item()


def test_channels_that_do_not_correlate_get_the_stronger_damping_by_their_tokens_choice() -> None:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(1400, COLUMNS, generator=random).bfloat16()
    weights = (0.05 * torch.randn(COLUMNS, ROWS, generator=random)).bfloat16()
    blind, weak = quantised(x, weights, None)
    chosen, strong = quantised(x, weights, routed(x[200:400]))
    assert strong == pytest.approx(0.3, rel=0.1)
    assert weak < 0.15
    assert chosen < 0.95 * blind


def test_channels_that_correlate_keep_the_weaker_one() -> None:
    random = torch.Generator().manual_seed(4)
    x = torch.randn(1400, 8, generator=random) @ torch.randn(8, COLUMNS, generator=random)
    x = (x + 0.02 * torch.randn(x.shape, generator=random)).bfloat16()
    weights = (0.05 * torch.randn(COLUMNS, ROWS, generator=random)).bfloat16()
    assert quantised(x, weights, routed(x[200:400])) == quantised(x, weights, None)
