"""Decides when a user's order to measure the engine is carried out (`flash-measure`). Pure.

The measurement changes no verdict: a user who measures must not be able to take a replica out of service, or to bless
one. It is made only while the engine serves and nobody uses it, and not more often than every `PAUSE_SECONDS`. An order
that cannot be carried out within `PATIENCE_SECONDS` is refused, so that nothing is measured long after the user left.
"""

from dataclasses import dataclass, replace

from flash_engine.gate.measurement import Measurement

SAMPLES = 5
"""Timed streams. All have their full length, unlike the gate's own, because their spread is of interest."""

PAUSE_SECONDS = 30.0
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Answer:
    """What came of an order."""

    id: str
    figures: Measurement | None = None
    problem: str = ""
    """Why there are no figures."""


@dataclass(frozen=True)
class OrderedMeasuring:
    """The order that waits, and the answer to the last one. Times are seconds on the event loop's clock."""

    waiting: str | None = None
    """The id of the order."""
    since: float = 0.0
    answer: Answer | None = None
    _measured_at: float | None = None

    def after_order(self, order: str | None, at: float) -> "OrderedMeasuring":
        """A later order replaces one that waits."""
        return self if order is None else replace(self, waiting=order, since=at)

    def is_due(self, at: float) -> bool:
        """Whether to measure now, if the engine is idle."""
        rested = self._measured_at is None or at - self._measured_at >= PAUSE_SECONDS
        return self.waiting is not None and rested

    def after_look(self, at: float, obstacle: str) -> "OrderedMeasuring":
        """`obstacle`: what is in the way, for the refusal."""
        if self.waiting is None or at - self.since < PATIENCE_SECONDS:
            return self
        problem = f"not measured within {PATIENCE_SECONDS:g} s: {obstacle}"
        return replace(self, waiting=None, answer=Answer(self.waiting, problem=problem))

    def after_measurement(self, answer: Answer, at: float) -> "OrderedMeasuring":
        waiting = None if self.waiting == answer.id else self.waiting
        return replace(self, waiting=waiting, answer=answer, _measured_at=at)
