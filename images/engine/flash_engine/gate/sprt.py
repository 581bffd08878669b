"""When enough was measured: a sequential test of the decode speed, and how clear the other figures are. Pure.

Each block of 16 tokens votes: was it decoded at the floor's speed or faster? The votes walk a line, one step up or one
step down, and the walk ends LEAD steps from where it began. Where a block reaches the floor with probability p, the
walk ends at the top with probability 1 / (1 + ((1 - p) / p)^LEAD) (the gambler's ruin; it is Wald's sequential
probability ratio test of p = 1/4 against p = 3/4). So an engine of which at most a quarter of all blocks reach the
floor is called fast in at most 1 / (1 + 3^7) = 0.046 % of the trials, and one of which at least three quarters do is
called slow as rarely, whatever the distribution of the speeds is. A healthy engine needs seven blocks, 112 tokens.

Votes know no amounts: an engine that stops every second may win them and be slow. So the walk ends a measurement only
where the figure (the median stream's rate) is on the same side of the floor; and a slow one needs two streams, for
one spell of a busy machine may spoil a whole one. Where they differ, all samples are taken, and the figure decides.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from math import sqrt

from flash_contracts.gate_config import GateConfig
from flash_engine.gate.measurement import Arrival, Sample, block_rates, measure

LEAD = 7
FEW, MOST = 0.25, 0.75
"""Shares of blocks at or above the floor between which the test may say either."""

CLEAR_DEVIATES = 3.29
"""Normal deviates of a two-sided 99.9 %."""

SLOW_STREAMS = 2
WORTH_CUTTING = 0.25
"""A stream of which less is left may as well end by itself: then its tokens are known to the last one."""


class Side(Enum):
    """Where the walk has ended."""

    ABOVE = 1
    BELOW = -1
    OPEN = 0


def error_rate(share: float, lead: int = LEAD) -> float:
    """Probability that the walk ends at the top where this share of blocks reaches the floor; 0 < share < 1."""
    return 1 / (1 + ((1 - share) / share) ** lead)


def walk(rates: Iterable[float], floor: float) -> Side:
    """Votes in their order; what comes after the walk's end does not matter."""
    place = 0
    for rate in rates:
        place += 1 if rate >= floor else -1
        if abs(place) == LEAD:
            return Side.ABOVE if place > 0 else Side.BELOW
    return Side.OPEN


def enough(samples: Sequence[Sample], config: GateConfig) -> bool:
    """Whether another sample could only cost time."""
    if len(samples) >= config.decode.samples:
        return True
    return bool(samples) and _speed_is_clear(samples, config) and _others_are_clear(samples, config)


def stream_is_clear(arrivals: Sequence[Arrival], config: GateConfig) -> bool:
    """Whether the rest of a stream of `decode.tokens` tokens is not worth its time."""
    left = config.decode.tokens - arrivals[-1].tokens if arrivals else config.decode.tokens
    if left < WORTH_CUTTING * config.decode.tokens:
        return False
    return walk(block_rates(arrivals), config.floor) is not Side.OPEN


def interval(accepted: int, drafted: int, deviates: float = CLEAR_DEVIATES) -> tuple[float, float]:
    """Wilson's bounds of a share, in percent; `drafted` is at least 1."""
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
    low, high = interval(figures.accepted, figures.drafted)
    return not low <= config.min_acceptance_percent <= high
