"""Recognises a server that limits its clients' rate, and how long it asks them to wait. Pure.

header                                              sent by
--------------------------------------------------- -----------------------------------------------------------
Retry-After: seconds or a date                      most servers (RFC 9110, 10.2.3)
RateLimit: "api";r=0;t=55                           Hugging Face (draft-ietf-httpapi-ratelimit-headers, version 9)
RateLimit: limit=100, remaining=0, reset=50         earlier drafts, which also split it into RateLimit-Reset
X-Retry-After, X-RateLimit-Reset                    Docker Hub and others: seconds, or the time in seconds since 1970
"""

import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST_WAIT_SECONDS = 3600.0
"""The longest wait that is accepted: a server may use another unit, or its clock may be wrong."""

EPOCH_FROM = 1e9
"""From here on, a number is a time since 1970: as a wait, it would be 31 years."""

THROTTLED = 429
THROTTLED_IF_IT_NAMES_A_WAIT = (403, 503)

_WINDOW = re.compile(r'"[^"]*"\s*;(?P<parameters>[^,"]*)')
_RESET = re.compile(r"(?:^|[\s,;])(?:t|reset)\s*=\s*(\d{1,12})")
_LEFT = re.compile(r"(?:^|[\s,;])r\s*=\s*(\d{1,12})")


def is_throttled(status: int, headers: Mapping[str, str]) -> bool:
    """`headers` must not be case-sensitive, like those of HTTP clients."""
    return status == THROTTLED or (status in THROTTLED_IF_IT_NAMES_A_WAIT and "Retry-After" in headers)


def requested_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds, at most LONGEST_WAIT_SECONDS; None if the server does not ask."""
    waits = (
        _of_retry_after(headers.get("Retry-After"), headers.get("Date")),
        _of_number(headers.get("X-Retry-After")),
        _of_rate_limit(headers.get("RateLimit")),
        _of_number(headers.get("RateLimit-Reset")),
        _of_number(headers.get("X-RateLimit-Reset")),
    )
    wait = next((wait for wait in waits if wait is not None), None)
    return None if wait is None else min(max(wait, 0.0), LONGEST_WAIT_SECONDS)


def _of_retry_after(value: str | None, sent_at: str | None) -> float | None:
    wait = _of_number(value)
    until = _timestamp(value)
    if wait is not None or until is None:
        return wait
    # Use the server's own clock if it sends its time: the clock here may differ.
    began = _timestamp(sent_at)
    return until - (time.time() if began is None else began)


def _of_number(value: str | None) -> float | None:
    if value is None or not re.fullmatch(r"\s*\d{1,12}(\.\d*)?\s*", value, re.ASCII):
        return None
    number = float(value)
    return number - time.time() if number >= EPOCH_FROM else number


def _of_rate_limit(value: str | None) -> float | None:
    """The longest wait of the exhausted windows; of all windows if none says how much is left."""
    if value is None:
        return None
    windows = [match["parameters"] for match in _WINDOW.finditer(value)] or [value]
    exhausted = [window for window in windows if (left := _LEFT.search(window)) is None or int(left[1]) == 0]
    resets = [float(reset[1]) for window in exhausted if (reset := _RESET.search(window))]
    return max(resets, default=None)


def _timestamp(value: str | None) -> float | None:
    """The time of an HTTP date."""
    try:
        date = parsedate_to_datetime(value or "")
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
