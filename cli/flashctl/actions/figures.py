"""The figures of an ordered measurement: median, spread and acceptance, beside the floor. Pure."""

import json
from statistics import median
from typing import Any

from flash_contracts.document import BadDocumentError
from flash_contracts.gate_result import OrderedMeasurement, SampleReport, WantedFigures
from flashctl.actions.order import NotDoneError
from flashctl.output import Document


class Figures(Document):
    """`bench -o json`. Rates in tokens per second, times in milliseconds, shares in percent."""

    namespace: str
    name: str
    pod: str
    samples: list[float]
    median: float
    lowest: float
    highest: float
    spread_percent: float
    """Between the lowest and the highest, in percent of the median."""
    first_token_millis: float
    acceptance_percent: float | None = None
    floor: float | None = None
    """What the gate wants at least."""
    acceptance_floor_percent: float | None = None

    @property
    def is_fast(self) -> bool:
        return self.floor is None or self.median >= self.floor


def figures_of(text: str, namespace: str, name: str, pod: str) -> Figures:
    """From what `flash-measure` printed. Raises NotDoneError if it is no measurement, or an impossible one."""
    try:
        document = json.loads(text)
        ordered = OrderedMeasurement.parse(document["ordered"])
        wanted = WantedFigures.parse(document.get("wanted") or {})
    except (ValueError, TypeError, KeyError, AttributeError, BadDocumentError) as error:
        raise NotDoneError(f"the gate of {pod} answered with something that is no measurement: {error}") from error
    if ordered.problem or not ordered.samples:
        raise NotDoneError(f"{pod} was not measured: {ordered.problem or 'there are no samples'}")
    rates = [sample.decode_tokens_per_second for sample in ordered.samples]
    middle = median(rates)
    if not 0 < middle < float("inf"):
        raise NotDoneError(f"the gate of {pod} claims a median of {middle} tok/s")
    return Figures(
        namespace=namespace,
        name=name,
        pod=pod,
        samples=[round(rate, 2) for rate in rates],
        median=round(middle, 2),
        lowest=round(min(rates), 2),
        highest=round(max(rates), 2),
        spread_percent=round(100 * (max(rates) - min(rates)) / middle, 1),
        first_token_millis=round(median(sample.first_token_millis for sample in ordered.samples), 1),
        acceptance_percent=_acceptance(ordered.samples),
        floor=wanted.decode_tokens_per_second,
        acceptance_floor_percent=wanted.acceptance_percent,
    )


def _acceptance(samples: tuple[SampleReport, ...]) -> float | None:
    drafted = sum(sample.drafted or 0 for sample in samples)
    accepted = sum(sample.accepted or 0 for sample in samples)
    return round(100 * accepted / drafted, 1) if drafted else None


def lines(figures: Figures) -> str:
    """For people."""
    samples = ", ".join(f"{rate:.1f}" for rate in figures.samples)
    return "\n".join(
        (
            f"{figures.pod} of {figures.name}, {len(figures.samples)} streams one after another",
            f"decode       {figures.median:.1f} tok/s median, {_wanted(figures.floor, ' tok/s')}",
            f"             {samples} (spread {figures.spread_percent:g} %)",
            f"acceptance   {_share(figures.acceptance_percent)}, {_wanted(figures.acceptance_floor_percent, ' %')}",
            f"first token  {figures.first_token_millis:.0f} ms median",
        )
    )


def _wanted(floor: Any, unit: str) -> str:
    return "no floor" if floor is None else f"wanted at least {floor:g}{unit}"


def _share(percent: float | None) -> str:
    return "nothing was drafted" if percent is None else f"{percent:g} % of drafted tokens"
