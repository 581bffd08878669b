"""Decides whether data arrives fast enough. Pure: the time is passed in."""

from dataclasses import dataclass


@dataclass
class ReceiveRate:
    """Requires an average of `least_bytes_per_second` in every period of `seconds`. Times are monotonic, in seconds.

    A period ends early once it has all the bytes that it needs, so that a stall counts from the last data.
    """

    began: float
    seconds: float
    least_bytes_per_second: float
    received: int = 0
    """Bytes in the current period."""

    def add(self, at: float, count: int) -> None:
        self.received += count
        if self.received >= self.seconds * self.least_bytes_per_second:
            self.began, self.received = at, 0

    def is_too_low(self, at: float) -> bool:
        return at - self.began >= self.seconds

    def would_be_too_low_after(self, at: float, wait: float) -> bool:
        """Whether a wait would leave no time in this period."""
        return at + wait - self.began >= self.seconds

    def exclude(self, seconds: float) -> None:
        """Exclude `seconds` that were spent waiting for something else."""
        self.began += seconds
