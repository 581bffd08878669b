"""The damping of each matrix: more of it the more of the correlations is noise."""

import pytest
import torch

from mtp_quantiser.batch import Quantised, QuantiserSettings, Routed, column_order, quantise
from mtp_quantiser.damping import LEAST_SHARE, MOST_SHARE, damping, level, noise_share
from mtp_quantiser.evaluation import decoded, relative_error
from mtp_quantiser.stages import Spread, Stages
from mtp_quantiser.stages.fused import FusedStages
from mtp_quantiser.stages.plain import PlainStages

COLUMNS, ROWS = 256, 128
PLAIN: Stages = PlainStages()
FUSED: Stages = FusedStages()


def middle(diagonal: torch.Tensor) -> torch.Tensor:
    return level(diagonal[None], column_order(diagonal[None]))


def spread(noise: float, tokens: int = 1000) -> Spread:
    """Of tokens that are equally strong, where `noise` of the correlations is noise."""
    return Spread(*(torch.tensor([value]) for value in (noise, float(tokens), 1.0)))


def share(noise: float, tokens: int) -> float:
    diagonal = torch.ones(1, COLUMNS)
    return float(damping(diagonal, torch.ones(1), torch.tensor([tokens]), spread(noise, tokens)))


def test_a_few_strong_channels_do_not_change_the_level() -> None:
    even = torch.ones(COLUMNS)
    strong = even.clone()
    strong[:3] = 2500.0
    assert torch.equal(middle(strong), middle(even))


def test_unused_channels_do_not_lower_it() -> None:
    diagonal = torch.ones(COLUMNS)
    diagonal[: COLUMNS * 3 // 4] = 0
    assert torch.equal(middle(diagonal), middle(torch.ones(COLUMNS)))


def test_nearly_idle_channels_leave_enough_for_the_factorisation() -> None:
    diagonal = torch.full((COLUMNS,), 1e-12)
    diagonal[0] = 256.0
    assert middle(diagonal).item() * LEAST_SHARE > 0.4e-7


@pytest.mark.parametrize(
    ("noise", "tokens", "expected"),
    [(0.0, 10**6, LEAST_SHARE), (0.0, 256, 0.03), (0.2, 256, 2.64), (0.2, 10**6, 2.61), (1.0, 256, MOST_SHARE)],
)
def test_the_share_rises_with_the_noise_and_falls_with_the_tokens(noise: float, tokens: int, expected: float) -> None:
    assert share(noise, tokens) == pytest.approx(expected, rel=1e-2)


def test_an_expert_without_tokens_has_no_noise() -> None:
    assert noise_share(COLUMNS, Spread(*torch.zeros(3, 1))).item() == 0


def correlated(tokens: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, 8, generator=random) @ torch.randn(8, COLUMNS, generator=random)
    return (x + 0.02 * torch.randn(x.shape, generator=random)).bfloat16()


def white(tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(tokens, COLUMNS, generator=torch.Generator().manual_seed(seed)).bfloat16()


def routed(*parts: torch.Tensor) -> Routed:
    bounds = (0, *torch.tensor([len(part) for part in parts]).cumsum(0).tolist())
    x = torch.cat(parts)
    return Routed(x, torch.ones(len(x)), bounds, torch.tensor(bounds, dtype=torch.int32))


def spread_of(stages: Stages, tokens: Routed) -> Spread:
    return stages.spread(tokens.x, tokens.offsets, PLAIN.gram(tokens.x, tokens.offsets))


@pytest.mark.parametrize("stages", [PLAIN, FUSED])
def test_white_noise_is_all_noise_and_what_correlates_hardly_any(stages: Stages) -> None:
    tokens = routed(white(300, 3), correlated(300, 4), white(0, 0), white(1000, 5))
    noise = noise_share(COLUMNS, spread_of(stages, tokens))
    assert noise[0] > 0.95
    assert noise[1] < 0.05
    assert noise[2] == 0
    assert noise[3] > 0.95


def test_the_kernel_finds_the_same_spread() -> None:
    tokens = routed(white(70, 6), correlated(500, 7))
    plain, fused = (vars(spread_of(stages, tokens)) for stages in (PLAIN, FUSED))
    for name, values in plain.items():
        assert torch.allclose(fused[name], values, rtol=1e-4), name


def test_one_strong_token_spoils_less_than_its_noise() -> None:
    x = correlated(400, 8)
    strong = x.clone()
    strong[0] *= 30
    found = []
    for tokens in (routed(x), routed(strong)):
        measured = spread_of(PLAIN, tokens)
        found.append(
            ((measured.noise / measured.correlation).item(), noise_share(torch.tensor([400.0]), measured).item())
        )
    assert found[1][0] > 10 * found[0][0]
    assert found[1][1] < 0.2 * found[1][0]


def quantised(x: torch.Tensor, weights: torch.Tensor) -> Quantised:
    seen = routed(x)
    h = PLAIN.gram(seen.x, seen.offsets)
    return quantise(PLAIN, weights[None], h, seen.counts, spread_of(PLAIN, seen), QuantiserSettings())


def test_where_all_is_noise_codes_are_nearly_those_of_rounding() -> None:
    weights = (0.05 * torch.randn(COLUMNS, ROWS, generator=torch.Generator().manual_seed(9))).bfloat16()
    done = quantised(white(200, 3), weights)
    rounded = (weights.float() / done.scales[0].float().repeat_interleave(128, 0)).round().clamp(-8, 7)
    assert done.damping.item() == pytest.approx(MOST_SHARE, rel=0.2)
    assert (done.codes[0] != rounded).float().mean() < 0.15
    x = white(1000, 10)
    values = decoded(done.codes[0], done.scales[0]), decoded(rounded.to(torch.int8), done.scales[0])
    ours, nearest = (relative_error(x, weights, value) for value in values)
    assert ours < 1.05 * nearest


def test_what_correlates_is_damped_little() -> None:
    weights = (0.05 * torch.randn(COLUMNS, ROWS, generator=torch.Generator().manual_seed(9))).bfloat16()
    assert quantised(correlated(4000, 4), weights).damping.item() < 0.05
