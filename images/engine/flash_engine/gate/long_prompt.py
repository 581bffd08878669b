"""Builds the long prompt: new text of a given number of tokens, which no prefix cache can contain.

It ends with the prompt of the other timed streams, so that the answer and its drafts are comparable.
"""

from collections.abc import Sequence
from random import Random

CHARACTERS_PER_TOKEN = 6
"""More than any tokenizer needs for English, so that there is enough text to cut."""

_PLACES = ("Thorsby", "Skerry", "Marrow", "Northwick", "Gull", "Saltholm", "Ferring", "Eastness", "Callan", "Brae")
_SHIPS = ("barque", "schooner", "trawler", "collier", "packet", "lugger", "brig", "tanker", "ferry", "tug")
_GOODS = ("slate", "timber", "herring", "salt", "coal", "wool", "glass", "barley", "paper", "rope")
_WEATHERS = ("fog", "a gale", "clear sky", "rain", "sleet", "a swell", "calm water", "thunder", "frost", "haze")


def filler(tokens: int, draw: Random) -> str:
    """A log of ships, longer than this many tokens. Its first words are random, so that no prefix is cached."""
    length = tokens * CHARACTERS_PER_TOKEN
    lines = [f"Log {draw.getrandbits(64):016x} of the lighthouse."]
    written = 0
    while written < length:
        lines.append(_line(draw))
        written += len(lines[-1]) + 1
    return "\n".join(lines)


def _line(draw: Random) -> str:
    hour, minute = draw.randrange(24), draw.randrange(60)
    return (
        f"At {hour:02}:{minute:02} the {draw.choice(_SHIPS)} {draw.choice(_PLACES)} passed {draw.randint(2, 98)} "
        f"cables off with {draw.choice(_GOODS)}, in {draw.choice(_WEATHERS)}, bound for {draw.choice(_PLACES)}."
    )


def cut(head: Sequence[int], tail: Sequence[int], tokens: int) -> list[int]:
    """As much of the head as fits into `tokens` before the tail, and the tail."""
    return [*head[: max(0, tokens - len(tail))], *tail]
