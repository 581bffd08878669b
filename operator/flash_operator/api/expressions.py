"""Parts of CEL expressions for rules over a table, whose messages name what was written.

The API server estimates the cost of an expression beforehand. It knows the lengths of literals and of fields, and
assumes the worst of a map's values and of the items of a computed list. So a text is chosen by conditions and not from
a map, and texts are put together by `format`, whose result has no cost, and not by `join` or `+`.
"""

from collections.abc import Iterable, Mapping

from flash_operator.api.rule import quoted

NAMED = 4
"""Texts in a message. With more to correct, it ends by saying that there are others."""


def literals(texts: Iterable[str]) -> str:
    """A list of literals."""
    return f"[{', '.join(map(quoted, texts))}]"


def choice(texts: Mapping[str, str]) -> str:
    """The text of the first condition that holds; the last one if none does."""
    *conditions, _ = texts
    return "".join(f"{condition} ? {quoted(texts[condition])} : " for condition in conditions) + quoted(
        [*texts.values()][-1]
    )


def first_texts(found: str) -> str:
    """The first texts of a list that has one at least."""
    later = [f"size(t) > {at} ? {text} : ''" for at in range(1, NAMED) for text in ("'; also '", f"t[{at}]")]
    parts = ["t[0]", *later, f"size(t) > {NAMED} ? '; also others' : ''"]
    return f"[{found}].map(t, {quoted('%s' * len(parts))}.format([{', '.join(parts)}]))[0]"
