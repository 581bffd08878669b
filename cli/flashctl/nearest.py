"""Names that the user may have meant."""

import difflib
from collections.abc import Collection, Iterable

FEW = 8
"""So many names are listed; of more, only the nearest."""


def nearest(wanted: str, known: Iterable[str]) -> list[str]:
    """The known names that are most like it, nearest first."""
    lower = {name.lower(): name for name in sorted(known)}
    return [lower[name] for name in difflib.get_close_matches(wanted.lower(), lower, n=3, cutoff=0.5)]


def suggestion(wanted: str, known: Collection[str]) -> str:
    """The end of a sentence about an unknown name: what to write instead."""
    if near := nearest(wanted, known):
        return f"; did you mean {' or '.join(near)}?"
    if not known:
        return "; there is none"
    shown = ", ".join(sorted(known)[:FEW])
    return f"; there is {shown}{f' and {len(known) - FEW} more' if len(known) > FEW else ''}"
