"""A stream is passed on byte for byte, except for secrets, however it is split."""

from itertools import pairwise

import pytest

from flash_engine.launcher.secret_filter import SecretFilter

STREAM = b"args: plugh-plugh, xyzzy; plugh-pluplugh-plugh\r50 %\nplugh"
SHOWN = b"args: [redacted], [redacted]; plugh-plu[redacted]\r50 %\nplugh"


@pytest.mark.parametrize("size", range(1, 20))
def test_a_secret_split_anywhere_is_not_shown(size: int) -> None:
    passing = SecretFilter(("plugh-plugh", "xyzzy"))
    ends = [*range(0, len(STREAM), size), len(STREAM)]
    shown = b"".join(passing.feed(STREAM[begin:end]) for begin, end in pairwise(ends))
    assert shown + passing.rest() == SHOWN


def test_without_secrets_no_output_is_delayed() -> None:
    assert SecretFilter(()).feed(STREAM) == STREAM
