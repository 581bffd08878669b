"""Waiting and ports, on which all other tests depend."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_stub.virtual_time import run_in_virtual_time
from ports import COUNT, FIRST, a_free_port
from waiting import NotReadyError, eventually, eventually_async


def test_the_result_is_returned() -> None:
    finds: Iterator[str | None] = iter([None, "", "it"])
    assert eventually(lambda: next(finds), "something", pause=0) == "it"


def test_the_error_says_what_was_waited_for_and_what_was_seen_last() -> None:
    with pytest.raises(NotReadyError, match=r"^three: not within 0 s; seen last: \[1, 2\]$"):
        eventually(lambda: None, "three", seconds=0, seen=lambda: [1, 2])
    with pytest.raises(TimeoutError, match=r"^three: not within 0 s; seen last: 0$"):
        eventually(lambda: 0, "three", seconds=0)
    with pytest.raises(NotReadyError, match=r"^three: not within 0 s$"):
        eventually(lambda: False, "three", seconds=0)


def test_waiting_stops_when_the_process_ends_and_shows_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {number}" for number in range(40)))
    with pytest.raises(NotReadyError, match="the server: its process ended") as message:
        eventually(lambda: None, "the server", seconds=3600, alive=lambda: False, log=log)
    assert str(message.value).splitlines()[1:] == [f"line {number}" for number in range(25, 40)]


def test_a_process_that_ends_after_success_is_not_a_failure() -> None:
    steps: list[str] = []

    def look() -> bool:
        steps.append("done, and ended")
        return len(steps) > 1

    assert eventually(look, "its work", pause=0, alive=lambda: not steps[1:])


def test_the_running_loops_clock_is_used() -> None:
    async def wait() -> float:
        clock = asyncio.get_running_loop().time
        await eventually_async(lambda: clock() > 3000, "an hour", seconds=3600, pause=60)
        with pytest.raises(NotReadyError, match="never: not within 60 s"):
            await eventually_async(lambda: None, "never", seconds=60, pause=1)
        return clock()

    assert run_in_virtual_time(wait()) == pytest.approx(3121, abs=1)


def test_a_port_is_given_once_and_can_be_bound() -> None:
    ports = [a_free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert all(FIRST <= port < FIRST + COUNT for port in ports)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", ports[0]))


def test_two_processes_never_get_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if no process listens there yet, and both start their search at the same port."""
    message = a_free_port()
    script = f"import os; os.getpid = lambda: {os.getpid()}; from ports import a_free_port; print(a_free_port())"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(other) != message


def test_a_port_in_use_is_not_given() -> None:
    message = a_free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", message + 1))
        listener.listen()
        assert a_free_port() != message + 1
