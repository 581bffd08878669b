"""Decides whether data arrives fast enough. Pure: the time is passed in."""

from dataclasses import dataclass


@dataclass
class ReceiveRate:
    """In every period of `seconds`, `least_bytes_per_second` on average must arrive. Times are monotonic, in seconds.

    A period ends early once it has all the bytes that it needs, so that a long stop counts from the last data.
    """

    began: float
    seconds: float
    least_bytes_per_second: float
    received: int = 0
    """Bytes in the period that is running."""

    def add(self, at: float, count: int) -> None:
        self.received += count
        if self.received >= self.seconds * self.least_bytes_per_second:
            self.began, self.received = at, 0

    def is_too_low(self, at: float) -> bool:
        return at - self.began >= self.seconds

    def would_be_too_low_after(self, at: float, wait: float) -> bool:
        """Whether a wait would leave no time in this period."""
        return at + wait - self.began >= self.seconds

    def excuse(self, seconds: float) -> None:
        """Does not count `seconds` that were spent waiting for something else."""
        self.began += seconds
