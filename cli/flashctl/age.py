"""Ages as kubectl writes them."""

from datetime import datetime

MINUTE, HOUR, DAY = 60, 3600, 86400


def moment_of(timestamp: object) -> datetime | None:
    """A time of the API; None if it is none."""
    try:
        moment = datetime.fromisoformat(str(timestamp))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def age_of(timestamp: object, now: datetime) -> str:
    """The time since then: `40s`, `12m`, `5h`, `3d`. Empty if unknown. A clock that is behind gives `0s`."""
    moment = moment_of(timestamp)
    return "" if moment is None else duration((now - moment).total_seconds())


def duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    if whole < 2 * MINUTE:
        return f"{whole}s"
    if whole < 2 * HOUR:
        return f"{whole // MINUTE}m"
    return f"{whole // HOUR}h" if whole < 2 * DAY else f"{whole // DAY}d"
