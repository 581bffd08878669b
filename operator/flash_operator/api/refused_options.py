"""CEL rules that refuse a whole table of vLLM's options, in every spelling that vLLM's parser takes.

One rule for a table and not one for each option: the API server evaluates every rule at every write, and each would
take all items apart again. The messages are expressions, so they name the options that were written, and only those.
"""

from collections.abc import Iterable, Mapping

from flash_contracts.vllm_options import OPTIONS
from flash_operator.api.expressions import choice, first_texts, literals
from flash_operator.api.rule import Rule, quoted

NAME = "a.split('=')[0].split('.')[0].split(' ')[0].replace('_', '-')"
"""An item's argument, without value and JSON key."""

_LETTERS = "n.find('^-[a-z]+')"
"""Of `-tp2`: `-tp`."""
_WITH_VALUE = "^-(?:[a-z][0-9].*|[a-z]+[0-9]+)$"


def refused_options(
    arguments: str, table: Mapping[str, str], *, unless: str = "", field_path: str | None = None
) -> tuple[Rule, Rule]:
    """The rules for the long and the short options of the table, which says what to use in place of each.

    `arguments` is the CEL expression of the list of items, and `unless` one that lets it contain these options.
    """
    long = {option: instead for option, instead in table.items() if option.startswith("--")}
    short = {option: instead for option, instead in table.items() if option not in long}
    return _long_options(arguments, long, unless, field_path), _short_options(arguments, short, unless, field_path)


def _long_options(arguments: str, table: Mapping[str, str], unless: str, field_path: str | None) -> Rule:
    """Also cut short, as `--tensor-p`, unless that is the whole name of another option."""
    names = f"{arguments}.map(a, {NAME})"
    others = sorted(other for other in OPTIONS - table.keys() if any(option.startswith(other) for option in table))
    is_one = f"size(n) > 2 && !(n in {literals(others)}) && {literals(sorted(table))}.exists(o, o.startsWith(n))"
    # Sorted, so that a whole name comes before the longer ones that begin with it.
    texts = {f"{quoted(option)}.startsWith(n)": _text(option, table[option]) for option in sorted(table)}
    found = f"{names}.filter(n, {is_one}).map(n, {choice(texts)})"
    return Rule(f"{unless}!{names}.exists(n, {is_one})", _all_of(table), field_path, first_texts(found))


def _short_options(arguments: str, table: Mapping[str, str], unless: str, field_path: str | None) -> Rule:
    """Also with the value at its end, as `-tp2`."""
    names = f"{arguments}.map(a, {NAME})"
    spellings = {spelling: option for option in table for spelling in _spellings(option)}
    with_value = f"n.matches({quoted(_WITH_VALUE)}) && {_LETTERS} in {literals(table)}"
    is_one = f"(n in {literals(spellings)} || {with_value})"
    texts = {f"n == {quoted(spelt)}": _text(option, table[option]) for spelt, option in spellings.items()}
    found = f"{names}.filter(n, {is_one}).map(n, {_LETTERS}).map(n, {choice(texts)})"
    return Rule(f"{unless}!{names}.exists(n, {is_one})", _all_of(table), field_path, first_texts(found))


def _text(option: str, instead: str) -> str:
    return f"{option} is not allowed here: {instead}"


def _spellings(option: str) -> list[str]:
    """`-tp`, and `-t` because no other option begins so."""
    prefixes = [option[:length] for length in range(2, len(option) + 1)]
    return [text for text in prefixes if text == option or [o for o in OPTIONS if o.startswith(text)] == [option]]


def _all_of(table: Iterable[str]) -> str:
    """For the reference, and where the expression fails because the message is too long."""
    return f"these arguments are not allowed here, however they are spelt: {', '.join(table)}"
