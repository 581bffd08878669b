"""Every kernel against its plain counterpart, and both against float64."""

import pytest
import torch

import reference
from mtp_quantiser.batch import (
    Experts,
    Fp4,
    QuantiserSettings,
    Routed,
    calibrate,
    column_order,
    quantise,
    quantise_experts,
)
from mtp_quantiser.evaluation import decoded
from mtp_quantiser.stages import Factor, ScaleGrid, Stages, fused
from mtp_quantiser.stages.fused import FusedStages
from mtp_quantiser.stages.plain import PlainStages

PLAIN: Stages = PlainStages()
FUSED: Stages = FusedStages()
BOTH = (PLAIN, FUSED)
BATCH, ROWS, COLUMNS = 2, 128, 256
TOKENS = (300, 400)


def seeded(seed: int) -> torch.Generator:
    """A generator for one fixture: what it draws does not depend on which tests ran before."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def random() -> torch.Generator:
    return seeded(0)


def fp4(batch: int, rows: int, columns: int, random: torch.Generator) -> Fp4:
    packed = torch.randint(0, 256, (batch, rows, columns // 2), dtype=torch.uint8, generator=random)
    exponents = torch.randint(110, 125, (batch, rows, columns // 32), dtype=torch.uint8, generator=random)
    return Fp4(packed, exponents)


def tokens(random: torch.Generator) -> Routed:
    x = torch.randn(sum(TOKENS), COLUMNS, generator=random) @ torch.randn(COLUMNS, COLUMNS, generator=random) / 16
    x[:, 5] = 0  # a channel that no token uses
    bounds = (0, TOKENS[0], sum(TOKENS))
    route = torch.rand(len(x), generator=random)
    return Routed(x.bfloat16(), route, bounds, torch.tensor(bounds, dtype=torch.int32))


def one_expert(routed: Routed, begin: int, end: int) -> Routed:
    bounds = (0, end - begin)
    return Routed(routed.x[begin:end], routed.route[begin:end], bounds, torch.tensor(bounds, dtype=torch.int32))


@pytest.fixture(scope="module")
def routed() -> Routed:
    return tokens(seeded(1))


@pytest.fixture(scope="module")
def h(routed: Routed) -> torch.Tensor:
    return PLAIN.gram(routed.x, routed.offsets)


@pytest.fixture(scope="module")
def order(h: torch.Tensor) -> torch.Tensor:
    return column_order(h.diagonal(dim1=1, dim2=2))


@pytest.fixture(scope="module")
def damping(h: torch.Tensor) -> torch.Tensor:
    return 0.01 * h.diagonal(dim1=1, dim2=2).mean(1)


@pytest.fixture(scope="module")
def factors(h: torch.Tensor, order: torch.Tensor, damping: torch.Tensor) -> dict[Stages, Factor]:
    """Results by implementation. The kernel takes seconds in the interpreter."""
    return {stages: stages.factorise(h, order, damping) for stages in BOTH}


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    return (0.05 * torch.randn(BATCH, COLUMNS, ROWS, generator=seeded(2))).bfloat16()


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def test_fp4_is_decoded_bit_for_bit(random: torch.Generator) -> None:
    matrix = fp4(BATCH, ROWS, COLUMNS, random)
    outs = [torch.full((BATCH, COLUMNS, 2 * ROWS), 7.0, dtype=torch.bfloat16) for _ in range(2)]
    for stages, out in zip(BOTH, outs, strict=True):
        stages.dequantise_into(matrix.packed, matrix.exponents, out, ROWS)
    assert torch.equal(*outs)
    assert (outs[0][:, :, :ROWS] == 7).all()


def test_the_hessian_is_the_sum_over_each_experts_own_tokens(routed: Routed, h: torch.Tensor) -> None:
    found = FUSED.gram(routed.x, routed.offsets)
    second = routed.x[TOKENS[0] :].double()
    assert relative(h[1], second.T @ second) < 1e-6
    assert relative(found, h) < 1e-6
    assert torch.equal(found, found.mT)


def test_an_expert_without_tokens_has_a_hessian_of_zeros(routed: Routed) -> None:
    offsets = torch.tensor([0, 0, 100], dtype=torch.int32)
    for stages in BOTH:
        assert not stages.gram(routed.x, offsets)[0].any()


def test_the_gated_activation_clamps_weighs_and_rounds_as_the_model_does(random: torch.Generator) -> None:
    both = (8 * torch.randn(50, 2 * COLUMNS, generator=random)).bfloat16()
    route = torch.rand(50, generator=random)
    gate, up = both.double().chunk(2, 1)
    gate, up = gate.clamp(max=10), up.clamp(-10, 10)
    wanted = gate / (1 + torch.exp(-gate)) * up * route[:, None].double()
    assert (both.float()[:, COLUMNS:].abs() > 10).any()
    for stages in BOTH:
        out = torch.empty(50, COLUMNS, dtype=torch.bfloat16)
        stages.gate_into(both, route, 10.0, out)
        assert relative(out, wanted) < 3e-3
        assert (out.double() - wanted).abs().max() < 0.3  # half a step of BF16 at 100


def test_the_factor_multiplies_back(
    h: torch.Tensor, order: torch.Tensor, damping: torch.Tensor, factors: dict[Stages, Factor]
) -> None:
    index = order.long()
    for b in range(BATCH):
        wanted = h[b].double()[index[b]][:, index[b]]
        wanted.diagonal().copy_(torch.where(wanted.diagonal() == 0, 1.0, wanted.diagonal()) + damping[b])
        for stages, bound in ((PLAIN, 1e-6), (FUSED, 4e-3)):  # the kernel gives L in BF16
            lower = factors[stages].lower[b].double().tril()
            assert relative(lower @ lower.T, wanted) < bound


def test_the_kernels_diagonal_blocks_are_as_good_as_fp32(factors: dict[Stages, Factor]) -> None:
    assert relative(factors[FUSED].blocks, factors[PLAIN].blocks) < 2e-5


@pytest.mark.parametrize("stages", [PLAIN, FUSED])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # it overflows, and its result is not used
def test_one_bad_hessian_is_named_and_affects_no_other(
    stages: Stages, h: torch.Tensor, order: torch.Tensor, damping: torch.Tensor, factors: dict[Stages, Factor]
) -> None:
    bad = h.clone()
    bad[0] -= 2 * torch.diag(bad[0].diagonal())
    found = stages.factorise(bad, order, damping)
    assert found.failed.tolist() == [1, 0]
    assert torch.equal(found.blocks[1], factors[stages].blocks[1])


def test_scales_are_those_of_the_least_weighted_error(weights: torch.Tensor, h: torch.Tensor) -> None:
    importance = h.diagonal(dim1=1, dim2=2).contiguous()
    plain, fused = (stages.search_scales(weights, importance, ScaleGrid()) for stages in BOTH)
    assert (plain != fused).float().mean() < 1e-3

    def error(scales: torch.Tensor) -> float:
        codes = (weights[0].float() / scales[0].float().repeat_interleave(128, 0)).round().clamp(-8, 7)
        difference = weights[0].float() - codes * scales[0].float().repeat_interleave(128, 0)
        return float((difference.square() * importance[0][:, None]).sum())

    exhaustive = PLAIN.search_scales(weights, importance, ScaleGrid(top=1.1, coarse=161, coarse_step=0.005, fine=1))
    largest = weights.view(BATCH, COLUMNS // 128, 128, ROWS).float().abs().amax(2)
    assert error(plain) < 1.01 * error(exhaustive)
    assert error(exhaustive) < 0.85 * error((largest / 7.5).bfloat16())


FLOAT32_MARGIN = 1e-3
"""In codes: float32 may flip a code that float64 finds nearer than this to the edge between two codes."""


# Residuals in BF16 flip codes near an edge; the loss shows that it does not matter. With a strip of one block the
# second block's carry is the product over all strips behind it; with four, it is made in the kernel of the strip.
@pytest.mark.parametrize(("stages", "strip"), [(PLAIN, 0), (FUSED, 128), (FUSED, 512)])
def test_codes_are_those_of_gptq_in_float64(
    stages: Stages,
    strip: int,
    weights: torch.Tensor,
    h: torch.Tensor,
    order: torch.Tensor,
    damping: torch.Tensor,
    factors: dict[Stages, Factor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scales = PLAIN.search_scales(weights, h.diagonal(dim1=1, dim2=2).contiguous(), ScaleGrid())
    monkeypatch.setattr(fused, "STRIP", strip)
    swept = stages.sweep(weights, scales, factors[PLAIN], order)
    for b in range(BATCH):
        wanted = reference.gptq(weights[b].T, h[b], scales[b].T, damping[b].item(), order[b])
        flipped = wanted.codes != swept.codes[b].T
        clear = wanted.margins > FLOAT32_MARGIN
        assert clear.float().mean() > 0.25, "too few rows can be compared code by code"
        assert not flipped[clear].any() if stages is PLAIN else flipped.float().mean() <= 0.025
        assert swept.loss[b].sum().item() == pytest.approx(wanted.loss, rel=5e-3)


def test_the_loss_of_the_sweep_is_the_damped_error(
    weights: torch.Tensor, h: torch.Tensor, order: torch.Tensor, damping: torch.Tensor, factors: dict[Stages, Factor]
) -> None:
    scales = PLAIN.search_scales(weights, h.diagonal(dim1=1, dim2=2).contiguous(), ScaleGrid())
    swept = PLAIN.sweep(weights, scales, factors[PLAIN], order)
    for b in range(BATCH):
        damped = h[b].double()
        damped.diagonal().copy_(torch.where(damped.diagonal() == 0, 1.0, damped.diagonal()) + damping[b])
        d = (weights[b].double() - decoded(swept.codes[b], scales[b]).double()).T
        assert (d @ damped * d).sum().item() == pytest.approx(swept.loss[b].sum().item(), rel=1e-3)


def test_a_column_that_no_token_used_keeps_its_rounded_weights(
    routed: Routed, weights: torch.Tensor, h: torch.Tensor
) -> None:
    spread = PLAIN.spread(routed.x, routed.offsets, h)
    done = quantise(PLAIN, weights, h, routed.counts, spread, QuantiserSettings())
    scale = done.scales[:, 0].float()
    assert torch.equal(done.codes[:, 5], (weights[:, 5].float() / scale).round().clamp(-8, 7).to(torch.int8))


def test_the_heaviest_column_is_swept_first() -> None:
    diagonal = torch.arange(256.0)[None].clone()
    diagonal[0, 7] = 1000
    assert column_order(diagonal)[0].tolist() == [c for c in range(256) if c != 7] + [7]


def test_words_hold_eight_codes_the_first_lowest() -> None:
    codes = torch.zeros(1, 128, 64, dtype=torch.int8)
    codes[0, :8, 0] = torch.tensor([-8, 7, 0, -1, 1, -7, 6, -8])
    for stages in BOTH:
        assert stages.pack(codes)[0, 0, 0].item() == 0x0E1978F0
        assert stages.pack(codes)[0, 0, 1].item() & 0xFFFFFFFF == 0x88888888


def test_a_whole_batch_comes_out_alike(random: torch.Generator) -> None:
    routed = one_expert(tokens(random), 0, TOKENS[0])
    experts = Experts(*(fp4(1, *shape, random) for shape in ((128, 256), (128, 256), (256, 128))))
    done = [
        quantise_experts(s, experts, calibrate(s, experts, routed, QuantiserSettings()), QuantiserSettings())
        for s in BOTH
    ]
    for name in ("gate_up", "down"):
        plain, fused = (getattr(one, name) for one in done)
        assert (plain.codes != fused.codes).float().mean() < 0.02
        assert fused.loss.sum().item() == pytest.approx(plain.loss.sum().item(), rel=2e-3)
        assert torch.allclose(plain.damping, fused.damping, rtol=1e-3)
