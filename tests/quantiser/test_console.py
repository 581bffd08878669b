"""Progress where nobody looks at a terminal."""

import pytest

from mtp_quantiser import console


def test_progress_is_told_every_two_seconds_with_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    assert list(console.logged(range(5), "quantising", 5, "experts")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err.splitlines() == [
        "quantising: 2 of 5 experts, about 3 s left",
        "quantising: 4 of 5 experts, about 1 s left",
        "quantising: 5 of 5 experts",
    ]
