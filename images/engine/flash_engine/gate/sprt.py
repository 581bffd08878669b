"""Decides when enough was measured: a sequential test of the decode speed, and how clear the other figures are. Pure.

Each block of 16 tokens is one vote: was it decoded at the floor's speed or faster? The votes are a random walk, one
step up or down each, that ends LEAD steps away from its start. If a block reaches the floor with probability p, the
walk ends at the top with probability 1 / (1 + ((1 - p) / p)^LEAD) (the gambler's ruin; equivalent to Wald's sequential
probability ratio test of p = 1/4 against p = 3/4). So if at most a quarter of an engine's blocks reach the floor, it is
called fast in at most 1 / (1 + 3^7) = 0.046 % of the trials. If at least three quarters do, it is called slow as
rarely. This holds for any distribution of speeds. A healthy engine needs seven blocks, 112 tokens.

Votes ignore by how much a block is faster or slower: an engine that stalls every second may win the vote and still be
slow. So the walk ends the measurement only if the figure (the median stream's rate) is on the same side of the floor.
A slow verdict also needs two streams, because a short load peak on the machine may slow a whole stream. If vote and
figure disagree, all samples are taken and the figure decides.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from math import sqrt

from flash_contracts.gate_config import GateConfig
from flash_contracts.trial_record import LongPrompt
from flash_engine.gate.measurement import (
    Arrival,
    Measurement,
    Sample,
    block_rates,
    measure,
    with_long_prompts,
)

LEAD = 7
FEW, MOST = 0.25, 0.75
"""Between these shares of blocks at or above the floor, the test may give either result."""

CLEAR_DEVIATES = 3.29
"""Standard normal deviates of a two-sided 99.9 % interval."""

SLOW_STREAMS = 2
WORTH_CUTTING = 0.25
"""A stream with a smaller share left is not cut: it ends soon, and then its exact number of tokens is known."""


class Side(Enum):
    """Where the walk ended."""

    ABOVE = 1
    BELOW = -1
    OPEN = 0


def error_rate(share: float, lead: int = LEAD) -> float:
    """Probability that the walk ends at the top if this share of blocks reaches the floor; 0 < share < 1."""
    return 1 / (1 + ((1 - share) / share) ** lead)


def walk(rates: Iterable[float], floor: float) -> Side:
    """Count the votes in order. Those after the end of the walk are ignored."""
    position = 0
    for rate in rates:
        position += 1 if rate >= floor else -1
        if abs(position) == LEAD:
            return Side.ABOVE if position > 0 else Side.BELOW
    return Side.OPEN


def enough(samples: Sequence[Sample], config: GateConfig) -> bool:
    """Whether another sample would only cost time."""
    if len(samples) >= config.decode.samples:
        return True
    return bool(samples) and _speed_is_clear(samples, config) and _others_are_clear(samples, config)


def stream_is_clear(arrivals: Sequence[Arrival], config: GateConfig) -> bool:
    """Whether the speed of a stream of `decode.tokens` tokens is clear enough to cut it."""
    left = config.decode.tokens - arrivals[-1].tokens if arrivals else config.decode.tokens
    if left < WORTH_CUTTING * config.decode.tokens:
        return False
    return walk(block_rates(arrivals), config.floor) is not Side.OPEN


def long_prompts_are_clear(figures: Measurement, prompts: Sequence[LongPrompt], config: GateConfig) -> bool:
    """Whether another long prompt would only cost time.

    One that reaches its floors is enough. One that does not may include the compilation of kernels for its length, so
    two must agree; if they do not, the median of three decides.
    """
    if len(prompts) >= config.decode.samples or config.long_prompt is None:
        return True
    if not prompts:
        return False
    passes = [not misses_at_depth(with_long_prompts(figures, [prompt]), config) for prompt in prompts]
    return passes == [True] or (len(passes) >= SLOW_STREAMS and not any(passes))


def misses_at_depth(figures: Measurement, config: GateConfig) -> bool:
    """Whether a figure of the long prompt is below its floor."""
    prefill, decode = figures.prefill_tokens_per_second, figures.depth_decode_tokens_per_second
    floor = config.long_prompt.min_prefill_tokens_per_second if config.long_prompt else None
    slow_prefill = prefill is not None and floor is not None and prefill < floor
    return slow_prefill or (decode is not None and decode < config.depth_floor)


def interval(accepted: float, drafted: int, deviates: float = CLEAR_DEVIATES) -> tuple[float, float]:
    """Wilson score interval of the acceptance, in percent; `drafted` is at least 1."""
    share, squared = accepted / drafted, deviates**2
    centre = (share + squared / (2 * drafted)) / (1 + squared / drafted)
    spread = deviates * sqrt(share * (1 - share) / drafted + squared / (4 * drafted**2)) / (1 + squared / drafted)
    return 100 * (centre - spread), 100 * (centre + spread)


def _speed_is_clear(samples: Sequence[Sample], config: GateConfig) -> bool:
    figures, floor = measure(samples), config.floor
    side = walk(figures.block_rates, floor)
    if side is Side.ABOVE:
        return figures.decode_tokens_per_second >= floor
    last = samples[-1].stream.decode_tokens_per_second
    slow = figures.decode_tokens_per_second < floor and last < floor
    return side is Side.BELOW and slow and len(samples) >= SLOW_STREAMS


def _others_are_clear(samples: Sequence[Sample], config: GateConfig) -> bool:
    figures, ceiling = measure(samples), config.max_first_token_millis
    if ceiling is not None and figures.first_token_millis > ceiling:
        return False
    if not config.speculation.expected or not figures.drafted or figures.accepted is None:
        return True
    # The tokens of one draft are accepted together or not, so there are as many independent trials as drafts.
    trials = min(figures.drafts or figures.drafted, figures.drafted)
    shares = (
        (figures.acceptance_percent, config.min_acceptance_percent),
        (figures.first_draft_percent, config.min_first_draft_percent),
    )
    return all(share is None or floor is None or _is_clear(share, trials, floor) for share, floor in shares)


def _is_clear(percent: float, trials: int, floor: float) -> bool:
    low, high = interval(percent / 100 * trials, trials)
    return not low <= floor <= high
