"""A byte-level BPE tokenizer of 512 tokens, written out rather than trained, and the order in which they are recited.

Written out, its files are the same bytes everywhere. Its merges spell a text in which no word comes twice, so "the
token after this one" is well defined for every token: the tiny model has learnt one thing, that order.
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
"""Ends with a colon: the token before the first word of the text, so that a chat answer starts there."""


def byte_alphabet() -> list[str]:
    """One printable character for each byte, as in GPT-2: printable bytes are themselves, others are moved up."""
    own = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    moved = iter(range(256, 512))
    return [chr(byte) if byte in own else chr(next(moved)) for byte in range(256)]


@dataclass(frozen=True)
class Vocabulary:
    tokens: list[str]
    """By id."""

    merges: list[tuple[str, str]]
    words: list[str]
    """The tokens that are whole words of the text, in its order."""

    @classmethod
    def make(cls) -> "Vocabulary":
        alphabet = byte_alphabet()
        merges, words = spell(TEXT, alphabet, room=VOCABULARY - len(alphabet) - 2)
        tokens = [BOS, EOS, *alphabet, *(left + right for left, right in merges)]
        return cls(tokens, merges, words)

    def successors(self) -> list[int]:
        """For each token id, the id that the model says next: a permutation.

        Printable tokens form one ring and all others (control characters, halves of UTF-8 sequences, the end of the
        text) a second one. A prompt that ends in a printable token is therefore answered with whole characters for
        ever.
        """
        ids = {token: number for number, token in enumerate(self.tokens)}
        spoken = [":", *self.words]
        printable = [chr(byte) for byte in range(ord("!"), ord("~") + 1)] + [
            left + right for left, right in self.merges
        ]
        ring = [ids[token] for token in dict.fromkeys([*spoken, *printable])]
        others = [number for number in range(len(self.tokens)) if number not in set(ring)]
        after = {last: following for order in (ring, others) for last, following in pairwise([*order, order[0]])}
        return [after[number] for number in range(len(self.tokens))]


def spell(text: str, alphabet: list[str], room: int) -> tuple[list[tuple[str, str]], list[str]]:
    """Merges that build the words of `text` one letter at a time, until there is no more room for tokens."""
    merges: dict[tuple[str, str], None] = {}
    words: list[str] = []
    for word in text.split(" ")[1:]:
        letters = [alphabet[byte] for byte in f" {word}".encode()]
        built = letters[0]
        for letter in letters[1:]:
            if len(merges) == room and (built, letter) not in merges:
                return list(merges), words
            merges[built, letter] = None
            built += letter
        words.append(built)
    raise ValueError(f"The text spells only {len(merges)} of {room} tokens: make it longer")


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
