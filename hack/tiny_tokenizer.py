"""Makes a byte-level BPE tokenizer of 512 tokens, and the order in which the tiny model recites them.

The vocabulary is constructed rather than trained, so that its files have the same bytes everywhere. Its merges spell a
text in which no word occurs twice, so every token has exactly one successor, which is all that the tiny model knows.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

BOS: Final = "<s>"
EOS: Final = "</s>"
VOCABULARY: Final = 512

TEXT: Final = (
    " the quick brown fox jumps over a lazy dog while seven wizards pack my box with five dozen jugs of liquor"
    " sphinx black quartz judge vow bright vixens doze near zebras and forty grey kangaroos yawn"
    " under an amber moon until morning comes across distant mountains where eleven pelicans gather"
    " driftwood before evening rain turns every harbour silver then quiet lanterns greet homebound fishermen"
)

CHAT_TEMPLATE: Final = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
"""Ends with a colon, whose successor is the first word of the text, so that a chat answer starts there."""


def byte_alphabet() -> list[str]:
    """One printable character for each byte, as in GPT-2: printable bytes stay, the others are moved above 255."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    moved = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(moved)) for byte in range(256)]


@dataclass(frozen=True)
class Vocabulary:
    tokens: list[str]
    """By id."""

    merges: list[tuple[str, str]]
    words: list[str]
    """The tokens that are whole words, in the order of the text."""

    @classmethod
    def make(cls) -> "Vocabulary":
        alphabet = byte_alphabet()
        merges, words = spell(TEXT, alphabet, count=VOCABULARY - len(alphabet) - 2)
        tokens = [BOS, EOS, *alphabet, *(left + right for left, right in merges)]
        return cls(tokens, merges, words)

    def successors(self) -> list[int]:
        """For each token id, the id of the next token: a permutation.

        Printable tokens form one ring, and all others (control characters, halves of UTF-8 sequences, the end of the
        text) a second one. After a prompt that ends in a printable token, the model never produces half a character.
        """
        ids = {token: number for number, token in enumerate(self.tokens)}
        recited = [":", *self.words]
        printable = [chr(byte) for byte in range(ord("!"), ord("~") + 1)] + [
            left + right for left, right in self.merges
        ]
        ring = [ids[token] for token in dict.fromkeys([*recited, *printable])]
        others = [number for number in range(len(self.tokens)) if number not in set(ring)]
        after = {last: following for order in (ring, others) for last, following in pairwise([*order, order[0]])}
        return [after[number] for number in range(len(self.tokens))]


def spell(text: str, alphabet: list[str], count: int) -> tuple[list[tuple[str, str]], list[str]]:
    """The first `count` merges that build the words of `text` letter by letter, and the words that they complete."""
    merges: dict[tuple[str, str], None] = {}
    words: list[str] = []
    for word in text.split(" ")[1:]:
        letters = [alphabet[byte] for byte in f" {word}".encode()]
        built = letters[0]
        for letter in letters[1:]:
            if len(merges) == count and (built, letter) not in merges:
                return list(merges), words
            merges[built, letter] = None
            built += letter
        words.append(built)
    raise ValueError(f"The text gives only {len(merges)} of {count} merges: make it longer")


def write_tokenizer(vocabulary: Vocabulary, directory: Path) -> None:
    special = [
        {"id": number, "content": content, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, content in enumerate((BOS, EOS))
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    bpe = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: number for number, token in enumerate(vocabulary.tokens)},
        "merges": [list(pair) for pair in vocabulary.merges],
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": bpe,
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", settings)):
        (directory / name).write_text(json.dumps(content, indent=1))
