"""The long prompt: text that no prefix cache contains, of exactly the requested number of tokens."""

from random import Random

import pytest

from flash_engine.gate.long_prompt import cut, filler


def test_no_two_prompts_share_a_cacheable_prefix() -> None:
    """vLLM caches blocks of 16 tokens and more; a block is known only if all before it are the same."""
    draw = Random(1)
    assert len({filler(300, draw)[:20] for _ in range(50)}) == 50


@pytest.mark.parametrize("tokens", [1, 256, 4096])
def test_the_text_is_long_enough_for_any_tokenizer(tokens: int) -> None:
    assert len(filler(tokens, Random(2))) >= 6 * tokens


CUTS = {
    "the head is cut": (range(10), [90, 91], 5, [0, 1, 2, 90, 91]),
    "a head that is too short stays whole": (range(2), [90], 5, [0, 1, 90]),
    "the question stays whole": (range(10), [90, 91, 92], 2, [90, 91, 92]),
}


@pytest.mark.parametrize(("head", "tail", "tokens", "made"), CUTS.values(), ids=CUTS.keys())
def test_the_question_comes_after_as_much_text_as_fits(
    head: range, tail: list[int], tokens: int, made: list[int]
) -> None:
    assert cut(head, tail, tokens) == made
