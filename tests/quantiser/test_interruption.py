"""A signal ends a command as an interruption, even if a library turned it into an error of its own."""

import signal
from collections.abc import Iterator

import pytest

from mtp_quantiser.interruption import interruptible


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Tests that a shell started in the background would ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(number)


def test_a_signal_that_came_out_of_a_library_as_its_own_error_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, interruptible():
        a_library_that_makes_an_error_of_it()
    assert isinstance(caught.value.__cause__, ValueError)


def a_library_that_makes_an_error_of_it() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt as interrupt:
        raise ValueError("could not determine the shape of object type") from interrupt


def test_an_error_without_a_signal_stays_what_it_is() -> None:
    with pytest.raises(ValueError, match="a bad shape"), interruptible():
        raise ValueError("a bad shape")


def test_previous_signal_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_signals_ignored_by_a_background_shell_stay_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
