"""For how long a replica has been ready, by the operator's own clock."""

from builders import a_pod
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.ready_times import ReadyTimes

KEY, OTHER = FlashKey("team", "flash"), FlashKey("team", "other")
READY, NOT_READY = a_pod("a", ready=True), a_pod("a")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_begins_when_the_operator_first_sees_it_ready() -> None:
    clock = Clock()
    times = ReadyTimes(clock)
    assert times.seconds(KEY, [NOT_READY]) == {}
    assert times.seconds(KEY, [READY]) == {"uid-of-a": 0.0}
    clock.now += 4
    assert times.seconds(KEY, [READY, a_pod("b", ready=True)]) == {"uid-of-a": 4.0, "uid-of-b": 0.0}


def test_the_time_begins_anew_after_a_time_in_which_it_was_not_ready() -> None:
    clock = Clock()
    times = ReadyTimes(clock)
    times.seconds(KEY, [READY])
    clock.now += 60
    times.seconds(KEY, [NOT_READY])
    assert times.seconds(KEY, [READY]) == {"uid-of-a": 0.0}


def test_deployments_do_not_mix_and_are_forgotten() -> None:
    clock = Clock()
    times = ReadyTimes(clock)
    times.seconds(KEY, [READY])
    clock.now += 60
    assert times.seconds(OTHER, [a_pod("b", ready=True)]) == {"uid-of-b": 0.0}
    times.forget(KEY)
    assert times.seconds(KEY, [READY]) == {"uid-of-a": 0.0}
